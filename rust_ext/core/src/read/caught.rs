//! Panics turned into values: what a decoder does with damaged bytes must not end the process.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}
static HOOK: Once = Once::new();

/// What `work` returns; if it panics, the panic's message, which is then not printed.
///
/// Whatever `work` was changing is to be thrown away after a panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            if !CATCHING.get() {
                print(panic);
            }
        }));
    });
    let before = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    outcome.map_err(|panic| message_of(panic.as_ref()))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message() {
        let nothing: Vec<u8> = Vec::new();
        assert_eq!(caught(|| nothing.len()), Ok(0));
        let message = caught(|| nothing[nothing.len()]).err().unwrap_or_default();
        assert!(message.contains("index out of bounds"), "{message}");
    }
}
