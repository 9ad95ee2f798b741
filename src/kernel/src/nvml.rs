//! Nvidia's management library, loaded while the program runs: which GPUs there
//! are, and under which minor numbers. A machine without the driver does not have
//! it, so nothing links to it.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// The library's name; found where the dynamic linker looks.
pub const LIBRARY: &str = "libnvidia-ml.so.1";

/// `nvmlReturn_t`; 0 is success.
type Status = c_int;
/// `nvmlDevice_t`: a pointer of the library's own.
type Device = *mut c_void;

/// `nvmlUtilization_t`, in percent of the last sampling period.
#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlMemory_t`, in bytes.
#[repr(C)]
#[derive(Default)]
struct MemoryInfo {
    total: u64,
    free: u64,
    used: u64,
}

/// How busy a GPU is; what the driver does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Percent of the time in which it computed.
    pub percent: Option<u32>,
    /// Bytes of its memory in use.
    pub memory_used: Option<u64>,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
}

/// The library, opened and initialised. Closed again when dropped.
#[derive(Debug)]
pub struct Nvml {
    _library: Library,
    shutdown: unsafe extern "C" fn() -> Status,
    driver_version: unsafe extern "C" fn(*mut c_char, c_uint) -> Status,
    count: unsafe extern "C" fn(*mut c_uint) -> Status,
    by_index: unsafe extern "C" fn(c_uint, *mut Device) -> Status,
    minor: unsafe extern "C" fn(Device, *mut c_uint) -> Status,
    utilization: Option<unsafe extern "C" fn(Device, *mut Utilization) -> Status>,
    memory: Option<unsafe extern "C" fn(Device, *mut MemoryInfo) -> Status>,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
}

impl Nvml {
    /// Opens `library`, a name or a path, and initialises it.
    ///
    /// # Errors
    /// There is none, it lacks a function, or the driver does not answer.
    pub fn open(library: &Path) -> Result<Nvml, Error> {
        let library = Library::open(library)?;
        // SAFETY: the signatures are those of nvml.h, which has kept them since the
        // first version of the library.
        let (init, nvml) = unsafe {
            let init: unsafe extern "C" fn() -> Status = library.function(c"nvmlInit_v2")?;
            let nvml = Nvml {
                shutdown: library.function(c"nvmlShutdown")?,
                driver_version: library.function(c"nvmlSystemGetDriverVersion")?,
                count: library.function(c"nvmlDeviceGetCount_v2")?,
                by_index: library.function(c"nvmlDeviceGetHandleByIndex_v2")?,
                minor: library.function(c"nvmlDeviceGetMinorNumber")?,
                utilization: library.function(c"nvmlDeviceGetUtilizationRates").ok(),
                memory: library.function(c"nvmlDeviceGetMemoryInfo").ok(),
                error_string: library.function(c"nvmlErrorString")?,
                _library: library,
            };
            (init, nvml)
        };
        // SAFETY: takes no arguments.
        let status = unsafe { init() };
        nvml.check(status, "initialise", "the Nvidia driver")?;
        Ok(nvml)
    }

    /// The driver's version, for people.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn driver_version(&self) -> Result<String, Error> {
        // NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
        let mut buffer: [c_char; 80] = [0; 80];
        // SAFETY: the library writes a text with its end into the 80 bytes given.
        let text = unsafe {
            let status = (self.driver_version)(buffer.as_mut_ptr(), 80);
            self.check(status, "ask for", "the version of the Nvidia driver")?;
            buffer[79] = 0;
            CStr::from_ptr(buffer.as_ptr())
        };
        Ok(text.to_string_lossy().into_owned())
    }

    /// How many GPUs there are.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn count(&self) -> Result<u32, Error> {
        let mut count = 0;
        // SAFETY: the library writes one number.
        let status = unsafe { (self.count)(&raw mut count) };
        self.check(status, "count", "the Nvidia GPUs")?;
        Ok(count)
    }

    /// The minor number of the GPU's device node.
    ///
    /// # Errors
    /// There is no such GPU.
    pub fn minor(&self, index: u32) -> Result<u32, Error> {
        let (mut device, mut minor) = (std::ptr::null_mut(), 0);
        // SAFETY: the library writes a handle, and is given it back.
        let status = unsafe {
            match (self.by_index)(index, &raw mut device) {
                0 => (self.minor)(device, &raw mut minor),
                status => status,
            }
        };
        self.check(status, "find", &format!("the Nvidia GPU {index}"))?;
        Ok(minor)
    }

    /// How busy the GPU is, as far as the driver tells.
    #[must_use]
    pub fn usage(&self, index: u32) -> Usage {
        let mut usage = Usage::default();
        let mut device = std::ptr::null_mut();
        // SAFETY: the library writes a handle.
        if unsafe { (self.by_index)(index, &raw mut device) } != 0 {
            return usage;
        }
        let (mut busy, mut memory) = (Utilization::default(), MemoryInfo::default());
        // SAFETY: the handle is the library's own; it fills in one struct of nvml.h.
        if self.utilization.is_some_and(|ask| unsafe { ask(device, &raw mut busy) } == 0) {
            usage.percent = Some(busy.gpu);
        }
        // SAFETY: as above.
        if self.memory.is_some_and(|ask| unsafe { ask(device, &raw mut memory) } == 0) {
            usage.memory_used = Some(memory.used);
            usage.memory_total = Some(memory.total);
        }
        usage
    }

    fn check(&self, status: Status, verb: &'static str, object: &str) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library answers with a constant text for every number.
        let text = unsafe {
            let text = (self.error_string)(status);
            if text.is_null() { c"unknown error" } else { CStr::from_ptr(text) }
        };
        let text = format!("{} ({status})", text.to_string_lossy());
        Err(Error::new(verb, object, io::Error::other(text)))
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: takes no arguments; the handles that it ends are not kept.
        unsafe { (self.shutdown)() };
    }
}

/// An open shared library.
#[derive(Debug)]
struct Library {
    handle: *mut c_void,
    path: PathBuf,
}

// SAFETY: a handle of dlopen belongs to the process, and NVML may be called from
// any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    fn open(path: &Path) -> Result<Library, Error> {
        let name = path.display().to_string();
        let text = CString::new(name.clone()).map_err(|e| Error::new("load", &name, e.into()))?;
        // SAFETY: a library's constructors run; the operator names the library.
        let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(Error::new("load", name, io::Error::other(complaint())));
        }
        Ok(Library { handle, path: path.to_owned() })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be the function's type, and must not outlive the library.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, Error> {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>(), "F is a function pointer");
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            let object = format!("{} in {}", name.to_string_lossy(), self.path.display());
            return Err(Error::new("find", object, io::Error::other(complaint())));
        }
        // SAFETY: the caller vouches for the type; the sizes are equal.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nothing of the library is kept.
        unsafe { libc::dlclose(self.handle) };
    }
}

/// What the dynamic linker says about the last failure.
fn complaint() -> String {
    // SAFETY: the text is the thread's own until its next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".into();
    }
    // SAFETY: not null, so a text with its end.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_says_so() {
        let error = Nvml::open(Path::new("libbulkhead-none.so.1")).expect_err("not there");
        let text = crate::chain(&error);
        assert!(text.starts_with("failed to load libbulkhead-none.so.1: "), "{text}");
        assert!(text.contains("cannot open shared object file"), "{text}");
    }

    #[test]
    fn another_library_is_not_taken_for_it() {
        let error = Nvml::open(Path::new("libc.so.6")).expect_err("it is another");
        let text = crate::chain(&error);
        assert!(text.starts_with("failed to find nvmlInit_v2 in libc.so.6: "), "{text}");
    }
}
