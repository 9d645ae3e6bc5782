//! Tables from disk, and Arrow streams.

use crate::convert::{data_error, ledger, run};
use equipoise_core::Error;
use equipoise_core::read::table::Kind;
use equipoise_core::read::{Batch, Input, Stream, Table};
use equipoise_core::records::{self, Clock, Outcome, Places, VisitIndex, Window, Words};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader};
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

#[pyfunction]
pub fn row_number(py: Python<'_>, file: PathBuf, place: u64) -> PyResult<Option<u64>> {
    run(py, 1, 1 << 20, None, |run| equipoise_core::read::table::row_number(file, place, run))
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

type Ids<'py> = PyReadonlyArray1<'py, i64>;

/// Where events come from: files, or a stream and its name.
pub enum Events {
    Stream(String, PyRecordBatchReader),
    Files(Vec<PathBuf>),
}

// Not derived: that would make a `TypeError` of a Ctrl-C that comes while Python tells a path.
impl<'py> FromPyObject<'_, 'py> for Events {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if given.is_instance_of::<PyTuple>() {
            let (name, stream) = given.extract()?;
            return Ok(Self::Stream(name, stream));
        }
        given.extract().map(Self::Files)
    }
}

impl Events {
    fn of_columns(self, columns: Vec<String>) -> PyResult<Input> {
        match self {
            Self::Files(files) => Ok(Input::Files(Table { files, columns })),
            Self::Stream(name, stream) => {
                Ok(Input::Stream(Stream::new(name, columns, stream.into_reader()?)))
            }
        }
    }
}

/// How events find their visits, beside the column of visit ids: see `_core.pyi`.
pub struct Placing<'py> {
    time: Option<(String, String)>,
    stays: Option<(String, Ids<'py>, Ids<'py>, Ids<'py>)>,
    window: Option<(Ids<'py>, Ids<'py>)>,
    words: (Option<PyRecordBatchReader>, Option<PyRecordBatchReader>),
}

// Not derived, for the same reason: streams are asked for by Python's code.
impl<'py> FromPyObject<'_, 'py> for Placing<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let words = given.cast::<PyDict>()?.get_item("words")?;
        Ok(Self {
            time: given.get_item("time")?.extract()?,
            stays: given.get_item("stays")?.extract()?,
            window: given.get_item("window")?.extract()?,
            words: words.map(|words| words.extract()).transpose()?.unwrap_or_default(),
        })
    }
}

/// The visits asked for, and those that are known and left out.
type Visits<'a> = (&'a Ids<'a>, Option<&'a Ids<'a>>);

impl Placing<'_> {
    /// The index of `visits`, and the columns `wanted` with those of this placing behind them.
    fn apply(
        this: Option<Self>,
        py: Python<'_>,
        visits: &Visits<'_>,
        visit: Option<String>,
        mut wanted: Vec<String>,
    ) -> PyResult<(VisitIndex, Places, Vec<String>)> {
        let fail = |error: Error| data_error(py, &error);
        let mut index = VisitIndex::new(visits.0.as_slice()?).ok_or_else(|| {
            fail(Error::Shape("a visit id twice, or more than 268 million visits".into()))
        })?;
        if let Some(left_out) = visits.1 {
            index = index.with_left_out(left_out.as_slice()?);
        }
        let mut push = |name: String| {
            wanted.push(name);
            wanted.len() - 1
        };
        let mut places = Places { visit: visit.map(&mut push), ..Places::default() };
        let Some(Self { time, stays, window, words }) = this else {
            return Ok((index, places, wanted));
        };
        if let Some((column, clock)) = time {
            places.time = Some((push(column), clock_named(&clock)?));
        }
        if let Some((column, subjects, starts, ends)) = stays {
            places.subject = Some(push(column));
            let (starts, ends) = (starts.as_slice()?, ends.as_slice()?);
            index = index.with_stays(subjects.as_slice()?, starts, ends).map_err(fail)?;
        }
        if let Some((limits, untimed)) = window {
            let (limits, untimed) = (limits.as_slice()?.to_vec(), untimed.as_slice()?.to_vec());
            index = index.with_window(Window { limits, untimed }).map_err(fail)?;
        }
        let words = (words_of(py, words.0)?, words_of(py, words.1)?);
        Ok((index.with_words(words.0, words.1), places, wanted))
    }
}

/// Ids as they are written, and their numbers: the two columns of a stream.
fn words_of(py: Python<'_>, stream: Option<PyRecordBatchReader>) -> PyResult<Option<Words>> {
    let Some(stream) = stream else { return Ok(None) };
    let batches = stream.into_reader()?.collect::<Result<Vec<_>, _>>();
    let batches = batches.map_err(|error| PyValueError::new_err(error.to_string()))?;
    let names = ["word", "number"].map(str::to_owned);
    let batches = batches.iter().map(|batch| Batch {
        table: "words",
        names: &names,
        columns: batch.columns(),
        first_row: 0,
        kept: None,
    });
    Words::new(batches).map(Some).map_err(|error| data_error(py, &error))
}

fn clock_named(name: &str) -> PyResult<Clock> {
    match name {
        "time" => Ok(Clock::Calendar),
        "date" => Ok(Clock::Days),
        "minutes" => Ok(Clock::Minutes),
        _ => Err(PyValueError::new_err(format!("no clock is called {name:?}"))),
    }
}

/// The visit id's column, which is the first if there is one, and the others.
fn split_first(
    mut columns: Vec<Option<String>>,
    least: usize,
    what: &'static str,
) -> PyResult<(Option<String>, Vec<String>)> {
    let wrong = || PyValueError::new_err(format!("columns: the visit id or None, {what}"));
    if columns.len() < least {
        return Err(wrong());
    }
    let visit = columns.remove(0);
    Ok((visit, columns.into_iter().collect::<Option<_>>().ok_or_else(wrong)?))
}

// Python's keyword arguments are this function's parameters.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (events, columns, visits, *, left_out=None, placing=None, threads=1, block=1048576, progress=None))]
pub fn read_codes<'py>(
    py: Python<'py>,
    events: Events,
    columns: Vec<Option<String>>,
    visits: Ids<'py>,
    left_out: Option<Ids<'py>>,
    placing: Option<Placing<'py>>,
    threads: usize,
    block: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<CodesOut<'py>> {
    let (visit, names) = split_first(columns, 2, "then what names the code")?;
    let parts = names.len();
    let (index, places, columns) =
        Placing::apply(placing, py, &(&visits, left_out.as_ref()), visit, names)?;
    let table = events.of_columns(columns)?;
    let read = run(py, threads, block, progress, |run| {
        records::read_codes(table, parts, places, &index, run)
    })?;
    let named = (read.names, ledger(&read.ledger));
    Ok((read.offsets.into_pyarray(py), read.codes.into_pyarray(py), named))
}

// Python's keyword arguments are this function's parameters.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (events, columns, visits, *, left_out=None, known=None, placing=None, threads=1, block=1048576, progress=None))]
pub fn read_values<'py>(
    py: Python<'py>,
    events: Events,
    columns: Vec<Option<String>>,
    visits: Ids<'py>,
    left_out: Option<Ids<'py>>,
    known: Option<Ids<'py>>,
    placing: Option<Placing<'py>>,
    threads: usize,
    block: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<ValuesOut<'py>> {
    let (visit, names) = split_first(columns, 3, "what names the lab, the value")?;
    let parts = names.len() - 1;
    let (index, places, columns) =
        Placing::apply(placing, py, &(&visits, left_out.as_ref()), visit, names)?;
    let known = known.map(|known| known.as_slice().map(<[i64]>::to_vec)).transpose()?;
    let table = events.of_columns(columns)?;
    let read = run(py, threads, block, progress, |run| {
        records::read_values(table, parts, places, &index, known.as_deref(), run)
    })?;
    let named = (read.names, ledger(&read.ledger));
    let (offsets, labs) = (read.offsets.into_pyarray(py), read.labs.into_pyarray(py));
    Ok((offsets, labs, read.values.into_pyarray(py), named))
}

// Python's keyword arguments are this function's parameters.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (files, columns, visits, outcome, *, values, left_out=None, placing=None, threads=1, block=1048576))]
pub fn find_row<'py>(
    py: Python<'py>,
    files: Vec<PathBuf>,
    columns: Vec<Option<String>>,
    visits: Ids<'py>,
    outcome: &str,
    values: bool,
    left_out: Option<Ids<'py>>,
    placing: Option<Placing<'py>>,
    threads: usize,
    block: usize,
) -> PyResult<()> {
    let outcome = Outcome::of_words(outcome)
        .ok_or_else(|| PyValueError::new_err(format!("no outcome is called {outcome:?}")))?;
    let (visit, names) = split_first(columns, 2 + usize::from(values), "then the others")?;
    let parts = names.len() - usize::from(values);
    let (index, places, columns) =
        Placing::apply(placing, py, &(&visits, left_out.as_ref()), visit, names)?;
    let table = Table { files, columns };
    let find = if values { records::find_value } else { records::find_code };
    run(py, threads, block, None, |run| find(&table, parts, places, &index, outcome, run))
}
