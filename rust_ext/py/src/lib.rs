//! `equipoise._core`: converts arguments, lets go of the GIL, calls `equipoise-core`, converts back.

mod convert;
mod ragged;
mod tables;
mod xla;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(tables::read_table, module)?)?;
    module.add_function(wrap_pyfunction!(tables::read_codes, module)?)?;
    module.add_function(wrap_pyfunction!(tables::read_values, module)?)?;
    module.add_function(wrap_pyfunction!(tables::find_row, module)?)?;
    module.add_function(wrap_pyfunction!(tables::row_number, module)?)?;
    module.add_function(wrap_pyfunction!(ragged::counts, module)?)?;
    module.add_function(wrap_pyfunction!(ragged::deciles, module)?)?;
    module.add_function(wrap_pyfunction!(ragged::encode, module)?)?;
    module.add_function(wrap_pyfunction!(xla::block_sample, module)?)?;
    module.add_function(wrap_pyfunction!(xla::instructions, module)?)?;
    module.add_function(wrap_pyfunction!(xla::halo_sample, module)?)
}
