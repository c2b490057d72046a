//! Custom operators, and sessions of the host inside of them.

use super::{Api, OwnedValue, call};
use crate::error::Result;
use crate::sys::*;
use std::ffi::{CStr, CString, c_int};
use std::ptr::{null, null_mut};

/// Custom operators, and sessions inside of them. All slots exist since [`MIN_OPERATOR_API`].
impl Api {
    /// A domain of one operator. It is never released: sessions refer to it.
    pub fn create_operator_domain(
        &self,
        name: &CStr,
        operator: &'static ort_sys::OrtCustomOp,
    ) -> Result<*mut ort_sys::OrtCustomOpDomain> {
        let mut domain = null_mut();
        call!(self, CreateCustomOpDomain(name.as_ptr(), &mut domain))?;
        call!(self, CustomOpDomain_Add(domain, operator))?;
        Ok(domain)
    }

    /// # Safety
    /// The options are alive, and the domain stays alive as long as sessions that are created with them.
    pub unsafe fn add_operator_domain(
        &self,
        options: *mut OrtSessionOptions,
        domain: *mut ort_sys::OrtCustomOpDomain,
    ) -> Result<()> {
        call!(self, AddCustomOpDomain(options, domain))
    }

    /// A string attribute of a custom operator's node.
    pub fn info_string(&self, info: &ort_sys::OrtKernelInfo, name: &CStr) -> Result<Vec<u8>> {
        let mut size = 0;
        let asked = call!(self, KernelInfoGetAttribute_string(info, name.as_ptr(), null_mut(), &mut size));
        if size == 0 {
            asked?;
        }
        let mut text = vec![0u8; size];
        call!(self, KernelInfoGetAttribute_string(info, name.as_ptr(), text.as_mut_ptr().cast(), &mut size))?;
        // The host ends it with a zero.
        text.truncate(size.saturating_sub(1));
        Ok(text)
    }

    /// The logger of the session that a node belongs to; null if there is none.
    pub fn info_logger(&self, info: &ort_sys::OrtKernelInfo) -> *const OrtLogger {
        let mut logger = null();
        match call!(self, KernelInfo_GetLogger(info, &mut logger)) {
            Ok(()) => logger,
            Err(_) => null(),
        }
    }

    /// Element type and shape of a tensor, copied.
    pub fn tensor_type<A: smallvec::Array<Item = i64>>(
        &self,
        value: &OrtValue,
        shape: &mut smallvec::SmallVec<A>,
    ) -> Result<i32> {
        if self.version >= MIN_API {
            let view = self.tensor(value)?;
            shape.extend_from_slice(view.shape);
            return Ok(view.element);
        }
        let mut info = null_mut();
        call!(self, GetTensorTypeAndShape(value, &mut info))?;
        let read = (|| {
            let (mut element, mut rank): (c_int, _) = (0, 0);
            call!(self, GetTensorElementType(info, (&raw mut element).cast()))?;
            call!(self, GetDimensionsCount(info, &mut rank))?;
            shape.resize(rank, 0);
            call!(self, GetDimensions(info, shape.as_mut_ptr(), rank))?;
            Ok(element)
        })();
        // SAFETY: made above, released once.
        unsafe { ((*self.api).ReleaseTensorTypeAndShapeInfo)(info) };
        read
    }

    /// A session of the host's own on a model in memory.
    pub fn create_session(&self, model: &[u8]) -> Result<SessionHandles> {
        let mut made =
            SessionHandles { api: *self, environment: null_mut(), options: null_mut(), session: null_mut() };
        let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
        // The process has one environment; this only counts its users.
        call!(self, CreateEnv(level, c"engraft".as_ptr(), &mut made.environment))?;
        call!(self, CreateSessionOptions(&mut made.options))?;
        call!(
            self,
            CreateSessionFromArray(
                made.environment,
                model.as_ptr().cast(),
                model.len(),
                made.options,
                &mut made.session
            )
        )?;
        Ok(made)
    }

    /// Runs a session of [`Api::create_session`]; safe to call at the same time from any thread.
    pub fn run_session(
        &self,
        handles: &SessionHandles,
        input_names: &[CString],
        inputs: &[&OrtValue],
        output_names: &[CString],
    ) -> Result<Vec<OwnedValue>> {
        let names = |names: &[CString]| names.iter().map(|name| name.as_ptr()).collect::<Vec<_>>();
        let (input_names, output_names) = (names(input_names), names(output_names));
        let inputs: Vec<*const OrtValue> = inputs.iter().map(|value| std::ptr::from_ref(*value)).collect();
        let mut outputs = vec![null_mut(); output_names.len()];
        let done = call!(
            self,
            Run(
                handles.session,
                null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr()
            )
        );
        let outputs = outputs.into_iter().map(|value| OwnedValue { api: *self, value }).collect();
        done.map(|()| outputs)
    }
}

/// A session of the host that the bridge owns, and what it was made of.
pub struct SessionHandles {
    api: Api,
    environment: *mut ort_sys::OrtEnv,
    options: *mut OrtSessionOptions,
    session: *mut ort_sys::OrtSession,
}

// SAFETY: sessions of the host may be run and released on any thread.
unsafe impl Send for SessionHandles {}
// SAFETY: as above; the host's sessions run concurrently.
unsafe impl Sync for SessionHandles {}

impl Drop for SessionHandles {
    fn drop(&mut self) {
        // SAFETY: owned, released once, the session before what it was made of; null is allowed.
        unsafe {
            ((*self.api.api).ReleaseSession)(self.session);
            ((*self.api.api).ReleaseSessionOptions)(self.options);
            ((*self.api.api).ReleaseEnv)(self.environment);
        }
    }
}
