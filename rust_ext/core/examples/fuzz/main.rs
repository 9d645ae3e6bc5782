//! Random mutations of small tables: no panic, no wrong count, whatever the bytes.
//!
//! `cargo run --release --example fuzz -- [--seed S] [--from I] [--count N] [--seconds T] [--jobs J]`
//!
//! Mutation I of seed S is always the same: a failure prints both. Tables are read by 1 to 3 threads
//! and in blocks of several sizes, which must agree; spoilt texts must give what a plain oracle says,
//! spoilt gzip what another decoder says, spoilt Parquet the rows that its footer says, or an error.

mod check;
mod mutate;
mod oracle;
mod random;
#[path = "../../src/scratch.rs"]
mod scratch;
mod tables;

use check::{Spoilt, check};
use random::Random;
use scratch::Scratch;
use std::error::Error;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What to do, from the command line.
struct Plan {
    seed: u64,
    from: u64,
    count: u64,
    seconds: u64,
    jobs: u64,
}

impl Plan {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut plan = Self { seed: 0, from: 0, count: u64::MAX, seconds: u64::MAX, jobs: 1 };
        while let Some(name) = arguments.next() {
            let number = arguments.next().ok_or("a number is wanted behind each flag")?.parse()?;
            match name.as_str() {
                "--seed" => plan.seed = number,
                "--from" => plan.from = number,
                "--count" => plan.count = number,
                "--seconds" => plan.seconds = number,
                "--jobs" => plan.jobs = number,
                _ => return Err(format!("no flag is called {name}").into()),
            }
        }
        Ok(plan)
    }
}

/// What has been done; shared by all jobs.
#[derive(Default)]
struct Tally {
    next: AtomicU64,
    failed: AtomicBool,
    made: [AtomicU64; 4],
    read: [AtomicU64; 4],
    /// Milliseconds and number of the mutation that took longest.
    slowest: Mutex<(u128, u64)>,
}

/// Panics of decoders that are not ours (the core turns them into errors), and the last of our own.
static FOREIGN: AtomicU64 = AtomicU64::new(0);
static OURS: Mutex<Option<String>> = Mutex::new(None);

fn main() -> Result<(), Box<dyn Error>> {
    let plan = Plan::of(std::env::args().skip(1))?;
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let folder = Scratch::new(&parent, "fuzz")?;
    // The core sets its own hook when it first reads rows; ours is to stand above that one. One table
    // may be refused by its header, a hundred are not.
    for number in 0..100 {
        let _ = check(Spoilt::Text, &mut Random::of(plan.seed, number), folder.path());
    }
    std::panic::set_hook(Box::new(note_panic));
    let (tally, start) = (Tally::default(), Instant::now());
    std::thread::scope(|scope| {
        for job in 0..plan.jobs {
            let (plan, tally) = (&plan, &tally);
            let folder = folder.path().join(job.to_string());
            scope.spawn(move || work(plan, tally, start, &folder));
        }
    });
    report(&tally, start.elapsed());
    if tally.failed.load(Relaxed) { Err("a mutation failed".into()) } else { Ok(()) }
}

fn work(plan: &Plan, tally: &Tally, start: Instant, folder: &Path) {
    let limit = Duration::from_secs(plan.seconds);
    while !tally.failed.load(Relaxed) && start.elapsed() < limit {
        let done = tally.next.fetch_add(1, Relaxed);
        if done >= plan.count {
            return;
        }
        let number = plan.from + done;
        if let Err(error) = one(plan.seed, number, tally, folder) {
            tally.failed.store(true, Relaxed);
            let again = format!("--seed {} --from {number} --count 1", plan.seed);
            eprintln!("mutation {number} failed ({again}): {error}");
        }
    }
}

fn one(seed: u64, number: u64, tally: &Tally, folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let mut random = Random::of(seed, number);
    let place = random.below(Spoilt::ALL.len());
    let start = Instant::now();
    let was_read = check(Spoilt::ALL[place], &mut random, folder)?;
    tally.made[place].fetch_add(1, Relaxed);
    tally.read[place].fetch_add(u64::from(was_read), Relaxed);
    if let Ok(mut slowest) = tally.slowest.lock() {
        *slowest = (start.elapsed().as_millis(), number).max(*slowest);
    }
    match OURS.lock().ok().and_then(|mut ours| ours.take()) {
        Some(panic) => Err(panic.into()),
        None => Ok(()),
    }
}

/// A panic in a decoder is counted, one of ours is a failure: told by where it happened.
fn note_panic(panic: &std::panic::PanicHookInfo<'_>) {
    if panic.location().is_some_and(|place| place.file().contains("/registry/")) {
        FOREIGN.fetch_add(1, Relaxed);
    } else if let Ok(mut ours) = OURS.lock() {
        *ours = Some(panic.to_string());
    }
}

fn report(tally: &Tally, took: Duration) {
    let mut all = 0;
    for (place, spoilt) in Spoilt::ALL.iter().enumerate() {
        let (made, read) = (tally.made[place].load(Relaxed), tally.read[place].load(Relaxed));
        all += made;
        println!("{spoilt:?}: {made} mutations, {read} read, {} refused", made - read);
    }
    let rate = all as f64 / took.as_secs_f64();
    println!("{all} mutations in {:.1} s ({rate:.0}/s)", took.as_secs_f64());
    if let Ok(slowest) = tally.slowest.lock() {
        println!("the slowest, number {}, took {} ms", slowest.1, slowest.0);
    }
    println!("panics of the Parquet decoder, refused as damage: {}", FOREIGN.load(Relaxed));
}
