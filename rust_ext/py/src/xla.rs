//! The fine heads as custom calls of XLA on a CPU.
//!
//! XLA hands over pointers in the structs of its C interface for such calls (`xla/ffi/api/c_api.h`
//! of jaxlib, version 0.1), which are written down here as far as they are read.
#![allow(unsafe_code)]

use crate::convert::threads_of;
use equipoise_core::heads::{self, Block, HALO_LAYERS, Halo, Head, Instructions, Visits};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::{env, ptr, slice, thread};

const VERSION: (c_int, c_int) = (0, 1);
const METADATA: c_int = 1;
const BUFFER: c_int = 1;
const PRED: c_int = 1;
const F32: c_int = 11;
const INTERNAL: c_int = 13;

#[repr(C)]
struct Extension {
    struct_size: usize,
    kind: c_int,
    next: *mut Extension,
}

#[repr(C)]
struct ApiVersion {
    struct_size: usize,
    extensions: *mut Extension,
    major: c_int,
    minor: c_int,
}

#[repr(C)]
struct MetadataExtension {
    base: Extension,
    metadata: *mut Metadata,
}

#[repr(C)]
struct Metadata {
    struct_size: usize,
    version: ApiVersion,
}

#[repr(C)]
struct Api {
    struct_size: usize,
    extensions: *mut Extension,
    version: ApiVersion,
    internal: *const c_void,
    create_error: unsafe extern "C" fn(*mut ErrorArgs) -> *mut c_void,
}

#[repr(C)]
struct ErrorArgs {
    struct_size: usize,
    extensions: *mut Extension,
    message: *const c_char,
    code: c_int,
}

#[repr(C)]
struct Buffers {
    struct_size: usize,
    extensions: *mut Extension,
    length: i64,
    kinds: *const c_int,
    buffers: *const *const Buffer,
}

#[repr(C)]
struct Buffer {
    struct_size: usize,
    extensions: *mut Extension,
    dtype: c_int,
    data: *mut c_void,
    rank: i64,
    dims: *const i64,
}

/// A call, or with a metadata extension the question for which version this was written.
#[repr(C)]
struct CallFrame {
    struct_size: usize,
    extensions: *mut Extension,
    api: *const Api,
    context: *mut c_void,
    stage: c_int,
    arguments: Buffers,
    results: Buffers,
}

/// An error if a struct of XLA's is smaller than what is read of it here: of another version.
fn whole<T>(struct_size: usize) -> Result<(), String> {
    if struct_size < size_of::<T>() {
        return Err(format!("a struct of XLA's has {struct_size} bytes: another version of it"));
    }
    Ok(())
}

impl Buffers {
    /// Each as items of `dtype`, which are `T`.
    ///
    /// # Safety
    /// They must be what XLA hands over, and `T` what `dtype` says.
    unsafe fn each<T>(&self, dtype: c_int) -> Result<Vec<(*mut T, usize)>, String> {
        whole::<Self>(self.struct_size)?;
        if self.length == 0 {
            return Ok(Vec::new());
        }
        let length = self.length as usize;
        // SAFETY: XLA's lists are so long, and each buffer has so many dimensions.
        let (kinds, buffers) = unsafe {
            (slice::from_raw_parts(self.kinds, length), slice::from_raw_parts(self.buffers, length))
        };
        if let Some(kind) = kinds.iter().find(|&&kind| kind != BUFFER) {
            return Err(format!("want buffers, got an argument of kind {kind}"));
        }
        let of = |&buffer: &*const Buffer| {
            let buffer = unsafe { &*buffer };
            whole::<Buffer>(buffer.struct_size)?;
            if buffer.dtype != dtype {
                return Err(format!("want a buffer of type {dtype}, got {}", buffer.dtype));
            }
            let dims = match buffer.rank {
                0 => &[],
                rank => unsafe { slice::from_raw_parts(buffer.dims, rank as usize) },
            };
            Ok((buffer.data.cast(), dims.iter().product::<i64>() as usize))
        };
        buffers.iter().map(of).collect()
    }
}

type Call = unsafe extern "C" fn(*mut CallFrame) -> *mut c_void;

/// A capsule for `jax.ffi.register_ffi_target`: the call `(h, threshold, read_free, offset_free,
/// read, offset, code, write_free, write, bias, *code_panels, *write_panels) -> on`.
#[pyfunction]
pub fn halo_sample(py: Python<'_>) -> PyResult<Bound<'_, PyCapsule>> {
    unsafe extern "C" fn call(frame: *mut CallFrame) -> *mut c_void {
        // SAFETY: XLA hands over a frame.
        unsafe { handle(frame, draw_halo) }
    }
    capsule(py, call)
}

/// The same: `(h, threshold, read, code, offset, write, bias, direct) -> on`.
#[pyfunction]
pub fn block_sample(py: Python<'_>) -> PyResult<Bound<'_, PyCapsule>> {
    unsafe extern "C" fn call(frame: *mut CallFrame) -> *mut c_void {
        // SAFETY: XLA hands over a frame.
        unsafe { handle(frame, draw_block) }
    }
    capsule(py, call)
}

/// What the core draws visits with: "avx512", "avx2" or "portable".
#[pyfunction]
pub fn instructions() -> &'static str {
    Instructions::here().name()
}

fn capsule(py: Python<'_>, call: Call) -> PyResult<Bound<'_, PyCapsule>> {
    // SAFETY: the function lives as long as the process; JAX names the capsule so.
    unsafe {
        let name = c"xla._CUSTOM_CALL_TARGET".as_ptr();
        let capsule = pyo3::ffi::PyCapsule_New(call as *mut c_void, name, None);
        Ok(Bound::from_owned_ptr_or_err(py, capsule)?.cast_into_unchecked())
    }
}

/// How many threads draw: `EQUIPOISE_THREADS`, or as many as there are processors.
static THREADS: LazyLock<usize> = LazyLock::new(|| {
    let asked = env::var("EQUIPOISE_THREADS").ok().and_then(|text| text.parse().ok());
    threads_of(asked.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)))
});

/// Draws visits by the head of these weights.
type Draw = fn(&[&[f32]], Visits<'_>) -> Result<(), String>;

fn draw(head: &impl Head, visits: Visits<'_>) -> Result<(), String> {
    heads::sample(head, visits, *THREADS).map_err(|error| error.to_string())
}

fn draw_halo(weights: &[&[f32]], visits: Visits<'_>) -> Result<(), String> {
    let Some((layers, panels)) = weights.split_first_chunk() else {
        return Err(format!(
            "want at least {HALO_LAYERS} arrays of weights, got {}",
            weights.len()
        ));
    };
    draw(&Halo::new(*layers, panels), visits)
}

fn draw_block(weights: &[&[f32]], visits: Visits<'_>) -> Result<(), String> {
    let want = |_| format!("want 6 arrays of weights, got {}", weights.len());
    draw(&Block::new(weights.try_into().map_err(want)?), visits)
}

/// Null, or XLA's error.
///
/// # Safety
/// The frame must be XLA's.
unsafe fn handle(frame: *mut CallFrame, draw: Draw) -> *mut c_void {
    // SAFETY: XLA hands over a whole frame, and an extension whose kind is said.
    unsafe {
        let frame = &*frame;
        if let Some(extension) = frame.extensions.as_ref()
            && extension.kind == METADATA
        {
            let metadata = &mut *(*frame.extensions.cast::<MetadataExtension>()).metadata;
            (metadata.version.major, metadata.version.minor) = VERSION;
            return ptr::null_mut();
        }
        let done = catch_unwind(AssertUnwindSafe(|| sample(frame, draw)));
        let message = match done {
            Ok(Ok(())) => return ptr::null_mut(),
            Ok(Err(message)) => message,
            Err(_) => "equipoise's core panicked".to_owned(),
        };
        let message = CString::new(message).unwrap_or_default();
        let mut arguments = ErrorArgs {
            struct_size: size_of::<ErrorArgs>(),
            extensions: ptr::null_mut(),
            message: message.as_ptr(),
            code: INTERNAL,
        };
        ((*frame.api).create_error)(&raw mut arguments)
    }
}

unsafe fn sample(frame: &CallFrame, draw: Draw) -> Result<(), String> {
    whole::<CallFrame>(frame.struct_size)?;
    // SAFETY: XLA's buffers live for the call, results are ours alone, and PRED is a byte.
    let (floats, results) = unsafe {
        let floats = frame.arguments.each::<f32>(F32)?.into_iter();
        let floats = floats.map(|(data, length)| match length {
            0 => &[], // What is empty may be nowhere.
            _ => slice::from_raw_parts(data, length),
        });
        (floats.collect::<Vec<&[f32]>>(), frame.results.each::<u8>(PRED)?)
    };
    let [(on, length)] = results[..] else { return Err("want one result".to_owned()) };
    let [h, threshold, weights @ ..] = &floats[..] else {
        return Err("want h, thresholds".to_owned());
    };
    // SAFETY: see above.
    let on = match length {
        0 => &mut [][..],
        _ => unsafe { slice::from_raw_parts_mut(on, length) },
    };
    draw(weights, Visits { h, threshold, on })
}
