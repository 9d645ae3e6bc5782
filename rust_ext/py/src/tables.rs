//! Tables from disk.

use crate::convert::{data_error, ledger, run};
use equipoise_core::Error;
use equipoise_core::read::Table;
use equipoise_core::read::table::Kind;
use equipoise_core::records::{self, VisitIndex};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3_arrow::PyRecordBatch;
use std::path::PathBuf;

type Named<'py> = (Vec<String>, Vec<(&'static str, u64)>);
type CodesOut<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Named<'py>);
type ValuesOut<'py> =
    (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f64>>, Named<'py>);

#[pyfunction]
#[pyo3(signature = (files, columns, *, threads=1, block=1048576, progress=None))]
pub fn read_table(
    py: Python<'_>,
    files: Vec<PathBuf>,
    columns: Vec<(String, String)>,
    threads: usize,
    block: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<PyRecordBatch> {
    let kinds = columns.iter().map(|(_, kind)| kind_named(kind)).collect::<PyResult<Vec<_>>>()?;
    let table = Table { files, columns: columns.into_iter().map(|(name, _)| name).collect() };
    let batch = run(py, threads, block, progress, |run| {
        equipoise_core::read::table::read_table(&table, &kinds, run)
    })?;
    Ok(PyRecordBatch::new(batch))
}

fn kind_named(name: &str) -> PyResult<Kind> {
    match name {
        "id" => Ok(Kind::Id),
        "integer" => Ok(Kind::Integer),
        "float" => Ok(Kind::Float),
        "text" => Ok(Kind::Text),
        "time" => Ok(Kind::Time),
        _ => Err(PyValueError::new_err(format!("no kind of column is called {name:?}"))),
    }
}

fn index_of(py: Python<'_>, visits: &PyReadonlyArray1<'_, i64>) -> PyResult<VisitIndex> {
    VisitIndex::new(visits.as_slice()?).ok_or_else(|| {
        data_error(py, &Error::Shape("a visit id twice, or more than 268 million visits".into()))
    })
}

#[pyfunction]
#[pyo3(signature = (files, columns, visits, *, threads=1, block=1048576, progress=None))]
pub fn read_codes<'py>(
    py: Python<'py>,
    files: Vec<PathBuf>,
    columns: Vec<String>,
    visits: PyReadonlyArray1<'py, i64>,
    threads: usize,
    block: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<CodesOut<'py>> {
    if columns.len() < 2 {
        return Err(PyValueError::new_err("columns: the visit id, then what names the code"));
    }
    let index = index_of(py, &visits)?;
    let table = Table { files, columns };
    let read = run(py, threads, block, progress, |run| records::read_codes(&table, &index, run))?;
    let named = (read.names, ledger(&read.ledger));
    Ok((read.offsets.into_pyarray(py), read.codes.into_pyarray(py), named))
}

// Python's keyword arguments are this function's parameters.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (files, columns, visits, *, known=None, threads=1, block=1048576, progress=None))]
pub fn read_values<'py>(
    py: Python<'py>,
    files: Vec<PathBuf>,
    columns: Vec<String>,
    visits: PyReadonlyArray1<'py, i64>,
    known: Option<PyReadonlyArray1<'py, i64>>,
    threads: usize,
    block: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<ValuesOut<'py>> {
    if columns.len() < 3 {
        return Err(PyValueError::new_err("columns: the visit id, what names the lab, the value"));
    }
    let index = index_of(py, &visits)?;
    let known = known.map(|known| known.as_slice().map(<[i64]>::to_vec)).transpose()?;
    let table = Table { files, columns };
    let read = run(py, threads, block, progress, |run| {
        records::read_values(&table, &index, known.as_deref(), run)
    })?;
    let named = (read.names, ledger(&read.ledger));
    let (offsets, labs) = (read.offsets.into_pyarray(py), read.labs.into_pyarray(py));
    Ok((offsets, labs, read.values.into_pyarray(py), named))
}
