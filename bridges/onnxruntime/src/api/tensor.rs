//! Tensors, and one run over them.

use super::{Api, call};
use crate::error::{Error, Result};
use crate::sys::*;
use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};

/// Element type and dimensions as the host stores them; dimensions borrow from the value.
pub struct TensorView<'a> {
    pub element: i32,
    pub shape: &'a [i64],
}

/// A value that the bridge owns.
pub struct OwnedValue {
    pub(super) api: Api,
    pub(super) value: *mut OrtValue,
}

// SAFETY: an `OrtValue` holds reference-counted, immutable tensor memory that may be read and released on any thread.
unsafe impl Send for OwnedValue {}
// SAFETY: as above.
unsafe impl Sync for OwnedValue {}

impl OwnedValue {
    pub fn get(&self) -> Option<&OrtValue> {
        // SAFETY: null or alive until drop.
        unsafe { self.value.as_ref() }
    }
}

impl Drop for OwnedValue {
    fn drop(&mut self) {
        // SAFETY: owned, released once; null is allowed.
        unsafe { ((*self.api.api).ReleaseValue)(self.value) }
    }
}

impl Api {
    /// Element type and shape without an allocation.
    #[inline]
    pub fn tensor<'a>(&self, value: &'a OrtValue) -> Result<TensorView<'a>> {
        let (mut element, mut dims, mut rank): (c_int, _, _) = (0, null(), 0);
        call!(
            self,
            GetTensorElementTypeAndShapeDataReference(value, (&raw mut element).cast(), &mut dims, &mut rank)
        )?;
        // SAFETY: the host's own shape array, `rank` long; null for scalars.
        let shape = if rank == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(dims, rank) } };
        Ok(TensorView { element, shape })
    }

    #[inline]
    pub fn tensor_data(&self, value: &OrtValue) -> Result<*const u8> {
        if self.version >= CONST_DATA_API {
            let mut data = null();
            call!(self, GetTensorData(value, &mut data))?;
            return Ok(data.cast());
        }
        let mut data = null_mut();
        // Only read through; older hosts have one function for both.
        call!(self, GetTensorMutableData(std::ptr::from_ref(value).cast_mut(), &mut data))?;
        Ok(data.cast_const().cast())
    }

    pub fn tensor_bytes(&self, value: &OrtValue) -> Result<usize> {
        let mut bytes = 0;
        call!(self, GetTensorSizeInBytes(value, &mut bytes))?;
        Ok(bytes)
    }

    /// Input `index` of the fused node; `None` where an optional input is left out.
    #[inline]
    pub fn run_input<'a>(&self, context: &'a OrtKernelContext, index: usize) -> Result<Option<&'a OrtValue>> {
        let mut value = null();
        call!(self, KernelContext_GetInput(context, index, &mut value))?;
        // SAFETY: null or alive for the whole run.
        Ok(unsafe { value.as_ref() })
    }

    /// Has the host allocate output `index` and returns its memory.
    #[inline]
    pub fn run_output(&self, context: *mut OrtKernelContext, index: usize, shape: &[i64]) -> Result<*mut u8> {
        let (mut value, mut data) = (null_mut(), null_mut());
        call!(self, KernelContext_GetOutput(context, index, shape.as_ptr(), shape.len(), &mut value))?;
        if value.is_null() {
            return Err(Error::contract(format!("the host has no output {index} for the fused node")));
        }
        call!(self, GetTensorMutableData(value, &mut data))?;
        Ok(data.cast())
    }

    /// Runs `function(data, i)` for `i` in `0..total` on the session's intra-op pool, this thread included.
    #[inline]
    pub fn parallel_for(
        &self,
        context: *const OrtKernelContext,
        function: unsafe extern "C" fn(*mut c_void, usize),
        total: usize,
        data: *mut c_void,
    ) -> Result<()> {
        call!(self, KernelContext_ParallelFor(context, function, total, 0, data))
    }
}
