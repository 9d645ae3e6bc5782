//! Errors, progress and interrupts across the door.

use equipoise_core::read::Run;
use equipoise_core::records::{Ledger, Outcome};
use equipoise_core::{Error, Report};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// `equipoise.errors.DataError` with the parts of `error`.
pub fn data_error(py: Python<'_>, error: &Error) -> PyErr {
    match build(py, error.report()) {
        Ok(raised) => raised,
        Err(failure) => failure,
    }
}

fn build(py: Python<'_>, report: Report) -> PyResult<PyErr> {
    let class = py.import("equipoise.errors")?.getattr("DataError")?;
    let parts = PyDict::new(py);
    parts.set_item("table", report.table)?;
    parts.set_item("column", report.column)?;
    parts.set_item("row", report.row)?;
    parts.set_item("want", report.want)?;
    parts.set_item("got", report.got)?;
    Ok(PyErr::from_value(class.call((), Some(&parts))?))
}

/// So many are started at most, whatever is asked for: the system may refuse more.
const MOST_THREADS: usize = 256;

/// As many threads as are asked for, within reason.
pub fn threads_of(asked: usize) -> usize {
    asked.clamp(1, MOST_THREADS)
}

/// Runs `work` without the GIL; meanwhile Ctrl-C is heard, and `progress(done, total)` called.
pub fn run<T: Send>(
    py: Python<'_>,
    threads: usize,
    block: usize,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut Run<'_>) -> equipoise_core::Result<T> + Send,
) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let outcome = py.detach(|| {
        let mut tell = |done: u64, total: u64| {
            let told = Python::attach(|py| {
                py.check_signals()?;
                progress.as_ref().map_or(Ok(()), |call| call.call1(py, (done, total)).map(drop))
            });
            raised = told.err();
            raised.is_none()
        };
        work(&mut Run { threads: threads_of(threads), block, progress: &mut tell })
    });
    match (raised, outcome) {
        (Some(error), _) => Err(error),
        (None, Ok(value)) => Ok(value),
        (None, Err(Error::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::OutOfMemory =>
        {
            Err(PyMemoryError::new_err("out of memory"))
        }
        (None, Err(error)) => Err(data_error(py, &error)),
    }
}

/// The ledger as (outcome in words, rows), every outcome included.
pub fn ledger(ledger: &Ledger) -> Vec<(&'static str, u64)> {
    Outcome::ALL.iter().map(|&outcome| (outcome.words(), ledger.rows(outcome))).collect()
}
