//! Records and a vocabulary to sorted sparse visits.

use crate::deciles::{CUTS, bin};
use crate::error::{Error, Result};
use crate::memory::reserved;

/// Codes of every visit, and which column each has (negative: none).
pub struct CodesIn<'a> {
    /// Visits + 1 offsets into `codes`.
    pub offsets: &'a [i64],
    /// Code numbers.
    pub codes: &'a [i32],
    /// For each code number its column.
    pub columns: &'a [i32],
}

/// Labs of every visit, and which column each bin of each lab has (negative: none).
pub struct LabsIn<'a> {
    /// Visits + 1 offsets into `labs` and `values`.
    pub offsets: &'a [i64],
    /// Lab numbers.
    pub labs: &'a [i32],
    /// Their values.
    pub values: &'a [f64],
    /// For each lab number its row in `cuts` and `columns`.
    pub slots: &'a [i32],
    /// Ascending cut points.
    pub cuts: &'a [[f64; CUTS]],
    /// Column of each of the ten bins.
    pub columns: &'a [[i32; CUTS + 1]],
}

/// Offsets (visits + 1) and ascending, unique columns of every visit.
pub type Sparse = (Vec<i64>, Vec<i32>);

/// Encodes all visits. A value equal to a cut point belongs to the bin above it.
///
/// # Errors
/// [`Error::Shape`] if the arrays contradict each other.
pub fn encode(codes: &CodesIn<'_>, labs: &LabsIn<'_>, threads: usize) -> Result<Sparse> {
    let visits = codes.offsets.len().saturating_sub(1);
    if codes.offsets.len() != labs.offsets.len() || labs.cuts.len() != labs.columns.len() {
        return Err(Error::Shape("codes and labs of the same visits are wanted".into()));
    }
    let share = visits.div_ceil(threads.max(1)).max(1);
    let starts: Vec<usize> = (0..visits).step_by(share).collect();
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = starts
            .iter()
            .map(|&start| (start, (start + share).min(visits)))
            .map(|(start, end)| scope.spawn(move || encode_visits(codes, labs, start, end)))
            .collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.collect::<Result<Vec<Sparse>>>()
    })?;
    let mut parts = parts.into_iter();
    let (mut offsets, mut columns) = parts.next().unwrap_or_else(|| (vec![0], Vec::new()));
    for (more_offsets, more) in parts {
        let shift = columns.len() as i64;
        offsets.extend(more_offsets[1..].iter().map(|offset| offset + shift));
        columns.extend(more);
    }
    Ok((offsets, columns))
}

fn encode_visits(
    codes: &CodesIn<'_>,
    labs: &LabsIn<'_>,
    start: usize,
    end: usize,
) -> Result<Sparse> {
    let mut offsets = Vec::with_capacity(end - start + 1);
    let binnings = binnings(labs)?;
    let most = |offsets: &[i64]| usize::try_from(offsets[end] - offsets[start]).unwrap_or(0);
    let most = most(codes.offsets).saturating_add(most(labs.offsets));
    let mut columns = reserved(most.min(codes.codes.len() + labs.labs.len()));
    offsets.push(0);
    let of_codes = codes.offsets[start..=end].windows(2);
    for (code_range, lab_range) in of_codes.zip(labs.offsets[start..=end].windows(2)) {
        let start = columns.len();
        for &code in slice(codes.codes, code_range)? {
            let column = lookup(codes.columns, code)?;
            columns.extend((column >= 0).then_some(column));
        }
        // The labs' columns mostly come ascending, and behind them: then the few codes are all to sort.
        sort_tail(&mut columns, start);
        let (visit_labs, values) = (slice(labs.labs, lab_range)?, slice(labs.values, lab_range)?);
        let mut end = columns.len();
        columns.resize(end + visit_labs.len(), 0);
        for (&lab, &value) in visit_labs.iter().zip(values) {
            // Without a branch for labs that are not wanted, which is not foreseen well.
            let (cuts, of_bins) = &binnings.rows[lookup(&binnings.of_lab, lab)? as usize];
            let column = of_bins[bin(cuts, value)];
            columns[end] = column;
            end += usize::from(column >= 0);
        }
        columns.truncate(end);
        sort_tail(&mut columns, start);
        offsets.push(columns.len() as i64);
    }
    Ok((offsets, columns))
}

/// Cut points and columns, and which of them each lab has: the last, without any column, if it is
/// not wanted.
struct Binnings {
    rows: Vec<([f64; CUTS], [i32; CUTS + 1])>,
    of_lab: Vec<i32>,
}

fn binnings(labs: &LabsIn<'_>) -> Result<Binnings> {
    let none = labs.cuts.len();
    let row = |&slot: &i32| match usize::try_from(slot) {
        Ok(slot) if slot < none => Ok(slot as i32),
        Ok(slot) => Err(no_such("lab slot", slot)),
        Err(_) => Ok(none as i32),
    };
    let of_lab = labs.slots.iter().map(row).collect::<Result<_>>()?;
    let mut rows: Vec<_> = labs.cuts.iter().copied().zip(labs.columns.iter().copied()).collect();
    rows.push(([f64::NAN; CUTS], [-1; CUTS + 1]));
    Ok(Binnings { rows, of_lab })
}

/// Sorts what stands from `start` on and drops repetitions there.
fn sort_tail(columns: &mut Vec<i32>, start: usize) {
    if columns[start..].is_sorted_by(|a, b| a < b) {
        return;
    }
    columns[start..].sort_unstable();
    let mut kept = start;
    for place in start..columns.len() {
        if place == start || columns[place] != columns[kept - 1] {
            columns[kept] = columns[place];
            kept += 1;
        }
    }
    columns.truncate(kept);
}

fn slice<'a, T>(values: &'a [T], range: &[i64]) -> Result<&'a [T]> {
    let bounds = usize::try_from(range[0]).ok().zip(usize::try_from(range[1]).ok());
    bounds.and_then(|(from, to)| values.get(from..to)).ok_or_else(|| {
        Error::Shape(format!("offsets {range:?} do not fit {} values", values.len()))
    })
}

fn lookup(table: &[i32], number: i32) -> Result<i32> {
    let entry = usize::try_from(number).ok().and_then(|number| table.get(number));
    entry.copied().ok_or_else(|| no_such("code or lab", number))
}

fn no_such(what: &str, number: impl std::fmt::Display) -> Error {
    Error::Shape(format!("there is no {what} number {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_cut_goes_up_and_columns_are_sorted() {
        let cuts = [[1.0, 2.0, 2.0, 2.0, 5.0, 6.0, 7.0, 8.0, 9.0]];
        let bins = [[10, 11, -1, -1, 14, 15, 16, 17, 18, 19]];
        let codes = CodesIn { offsets: &[0, 3, 3], codes: &[2, 0, 1], columns: &[20, -1, 3] };
        let labs = LabsIn {
            offsets: &[0, 1, 4],
            labs: &[0, 0, 0, 1],
            values: &[0.5, 2.0, 9.0, 1.0],
            slots: &[0, -1],
            cuts: &cuts,
            columns: &bins,
        };
        let encoded = encode(&codes, &labs, 2).map_err(|error| error.to_string());
        assert_eq!(encoded, Ok((vec![0, 3, 5], vec![3, 10, 20, 14, 19])));
    }

    #[test]
    fn contradictions_are_errors() {
        let codes = CodesIn { offsets: &[0, 9], codes: &[0], columns: &[0] };
        let labs = LabsIn {
            offsets: &[0, 0],
            labs: &[],
            values: &[],
            slots: &[],
            cuts: &[],
            columns: &[],
        };
        assert!(encode(&codes, &labs, 2).is_err());
        let codes = CodesIn { offsets: &[0, 1], codes: &[7], columns: &[0] };
        assert!(encode(&codes, &labs, 2).is_err());
    }
}
