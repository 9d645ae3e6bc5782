//! Lab means of a MIMIC-IV `hosp` folder, without Python around it: for profilers.
//!
//! `cargo run --release --example lab_means -- HOSP SUFFIX THREADS [BLOCK]`

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use equipoise_core::read::table::{Kind, read_table};
use equipoise_core::read::{Run, Table};
use equipoise_core::records::{Places, VisitIndex, read_values};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(suffix), Some(threads)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("HOSP SUFFIX THREADS are wanted".into());
    };
    let block = arguments.next().map_or(Ok(1 << 20), |block| block.parse())?;
    let mut progress = |_, _| true;
    let mut run = Run { threads: threads.parse()?, block, progress: &mut progress };
    let table = |name: &str, columns: &[&str]| Table {
        files: vec![PathBuf::from(&folder).join(format!("{name}.{suffix}"))],
        columns: columns.iter().map(|&column| column.to_owned()).collect(),
    };
    let admissions = read_table(&table("admissions", &["hadm_id"]), &[Kind::Id], &mut run)?;
    let items = read_table(&table("d_labitems", &["itemid"]), &[Kind::Id], &mut run)?;
    let ids = admissions.column(0).as_primitive::<Int64Type>().values();
    let index = VisitIndex::new(ids).ok_or("a visit id stands twice")?;
    let mut known = items.column(0).as_primitive::<Int64Type>().values().to_vec();
    known.sort_unstable();
    let start = Instant::now();
    let labs = table("labevents", &["itemid", "valuenum", "hadm_id"]);
    let places = Places { visit: Some(2), ..Places::default() };
    let records = read_values(&labs, 1, places, &index, Some(&known), &mut run)?;
    let pairs = records.labs.len();
    println!(
        "{} rows, {pairs} means, {:.2} s",
        records.ledger.read(),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
