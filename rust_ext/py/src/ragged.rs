//! Deciles and encoding.

use crate::convert::{data_error, threads_of};
use equipoise_core::deciles::CUTS;
use equipoise_core::encode::{CodesIn, LabsIn};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

type Deciles<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<bool>>);
type Lists<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>);

#[pyfunction]
#[pyo3(signature = (labs, values, slots, sizes, *, threads=1))]
pub fn deciles<'py>(
    py: Python<'py>,
    labs: PyReadonlyArray1<'py, i32>,
    values: PyReadonlyArray1<'py, f64>,
    slots: PyReadonlyArray1<'py, i32>,
    sizes: PyReadonlyArray1<'py, u64>,
    threads: usize,
) -> PyResult<Deciles<'py>> {
    let (labs, values, slots) = (labs.as_slice()?, values.as_slice()?, slots.as_slice()?);
    let (sizes, wanted) = (sizes.as_slice()?, sizes.len()?);
    let made = py
        .detach(|| {
            equipoise_core::deciles::deciles(labs, values, slots, sizes, threads_of(threads))
        })
        .map_err(|error| data_error(py, &error))?;
    let cuts = made.iter().flat_map(|(cuts, _)| *cuts).collect::<Vec<f64>>().into_pyarray(py);
    let filled = made.iter().flat_map(|(_, bins)| *bins).collect::<Vec<bool>>().into_pyarray(py);
    Ok((cuts.reshape([wanted, CUTS])?, filled.reshape([wanted, CUTS + 1])?))
}

#[pyfunction]
pub fn counts<'py>(
    py: Python<'py>,
    numbers: PyReadonlyArray1<'py, i32>,
    known: usize,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let numbers = numbers.as_slice()?;
    let counts = py
        .detach(|| equipoise_core::deciles::counts(numbers, known))
        .map_err(|error| data_error(py, &error))?;
    Ok(counts.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (codes, labs, cuts, bin_columns, *, threads=1))]
pub fn encode<'py>(
    py: Python<'py>,
    codes: (PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, i32>, PyReadonlyArray1<'py, i32>),
    labs: (
        PyReadonlyArray1<'py, i64>,
        PyReadonlyArray1<'py, i32>,
        PyReadonlyArray1<'py, f64>,
        PyReadonlyArray1<'py, i32>,
    ),
    cuts: PyReadonlyArray2<'py, f64>,
    bin_columns: PyReadonlyArray2<'py, i32>,
    threads: usize,
) -> PyResult<Lists<'py>> {
    let codes = CodesIn {
        offsets: codes.0.as_slice()?,
        codes: codes.1.as_slice()?,
        columns: codes.2.as_slice()?,
    };
    let (cuts, left) = cuts.as_slice()?.as_chunks::<CUTS>();
    let (columns, rest) = bin_columns.as_slice()?.as_chunks::<{ CUTS + 1 }>();
    if !left.is_empty() || !rest.is_empty() {
        return Err(PyValueError::new_err("nine cut points and ten columns a lab are wanted"));
    }
    let labs = LabsIn {
        offsets: labs.0.as_slice()?,
        labs: labs.1.as_slice()?,
        values: labs.2.as_slice()?,
        slots: labs.3.as_slice()?,
        cuts,
        columns,
    };
    let (offsets, columns) = py
        .detach(|| equipoise_core::encode::encode(&codes, &labs, threads_of(threads)))
        .map_err(|error| data_error(py, &error))?;
    Ok((offsets.into_pyarray(py), columns.into_pyarray(py)))
}
