// The plugin of net-loopback.c in Rust, without a crate: the ABI is C's layout and calls, not its language.
//
//   rustc --edition 2021 --crate-type cdylib -C panic=abort -o net-loopback.so net-loopback.rs
//
// The structures are those of <berth/plugin.h>, as far as this plugin uses them: what it reads is declared up to
// there, what it fills whole. A member that is a function it does not need is a pointer.
use std::ffi::{c_void, CStr};
use std::mem::size_of;
use std::os::raw::c_char;
use std::ptr::null;

type Status = i32;
const OK: Status = 0;
const E_INVALID: Status = -3;
const E_PRECONDITION: Status = -9;

#[repr(C)]
pub struct Op {
    _private: [u8; 0],
}
#[repr(C)]
pub struct Conf {
    _private: [u8; 0],
}

// struct berth_host, up to conf_bool
#[repr(C)]
pub struct Host {
    size: u32,
    abi_minor: u32,
    implementation: *mut c_void,
    host_version: *const c_char,
    plugin_name: *const c_char,
    instance_name: *const c_char,
    state_dir: *const c_char,
    run_dir: *const c_char,
    log: *const c_void,
    fail: unsafe extern "C" fn(*mut Op, Status, i32, *const c_char) -> Status,
    op_cancelled: *const c_void,
    op_cancel_fd: *const c_void,
    op_deadline_ns: *const c_void,
    op_alloc: unsafe extern "C" fn(*mut Op, u64) -> *mut c_void,
    op_progress: *const c_void,
    run: *const c_void,
    spawn: *const c_void,
    watch_fd: *const c_void,
    watch_after: *const c_void,
    rearm: *const c_void,
    unwatch: *const c_void,
    emit: *const c_void,
    conf_str: *const c_void,
    conf_i64: *const c_void,
    conf_bool: unsafe extern "C" fn(*const Conf, *const c_char, i32) -> i32,
}

#[repr(C)]
pub struct NetArgs {
    size: u32,
    flags: u32,
    sandbox_id: *const c_char,
    pod_name: *const c_char,
    pod_namespace: *const c_char,
    pod_uid: *const c_char,
    netns: *const c_char,
    ifname: *const c_char,
    prev_result_json: *const c_char,
    ports: *const c_void,
    caps: *const c_void,
    n_ports: u32,
    n_caps: u32,
}

#[repr(C)]
pub struct NetResult {
    size: u32,
    n_ips: u32,
    ips: *const *const c_char,
    result_json: *const c_char,
}

type AttachFn = unsafe extern "C" fn(*mut Op, *mut c_void, *const NetArgs, *mut NetResult) -> Status;
type DetachFn = unsafe extern "C" fn(*mut Op, *mut c_void, *const NetArgs) -> Status;
type StatusFn = unsafe extern "C" fn(*mut Op, *mut c_void) -> Status;

#[repr(C)]
pub struct NetworkOps {
    size: u32,
    reserved0: u32,
    attach: AttachFn,
    detach: DetachFn,
    check: *const c_void,
    status: StatusFn,
    gc: *const c_void,
}

type CreateFn = unsafe extern "C" fn(*mut Op, *const Host, *const Conf, *mut *mut c_void) -> Status;

#[repr(C)]
pub struct Plugin {
    size: u32,
    abi_minor: u32,
    flags: u32,
    reserved0: u32,
    features: u64,
    name: *const c_char,
    version: *const c_char,
    storage: *const c_void,
    runtime: *const c_void,
    network: *const NetworkOps,
    create: CreateFn,
    start: *const c_void,
    stop: *const c_void,
    destroy: unsafe extern "C" fn(*mut c_void),
    extension: *const c_void,
}
// The tables are constant, and so are the strings they point to.
unsafe impl Sync for Plugin {}
unsafe impl Sync for NetworkOps {}

struct Loopback {
    host: *const Host,
    ports: bool,
}

const fn c(text: &'static [u8]) -> *const c_char {
    text.as_ptr() as *const c_char // the text ends with \0
}

fn text<'a>(p: *const c_char) -> std::borrow::Cow<'a, str> {
    if p.is_null() {
        return "".into();
    }
    unsafe { CStr::from_ptr(p) }.to_string_lossy()
}

// The host copies the words. A text from C has no NUL inside.
unsafe fn fail(host: *const Host, op: *mut Op, status: Status, words: &str) -> Status {
    let words = std::ffi::CString::new(words).unwrap_or_default();
    ((*host).fail)(op, status, 0, words.as_ptr())
}

unsafe extern "C" fn create(
    _op: *mut Op,
    host: *const Host,
    conf: *const Conf,
    me: *mut *mut c_void,
) -> Status {
    let ports = ((*host).conf_bool)(conf, c(b"ports\0"), 0) != 0;
    *me = Box::into_raw(Box::new(Loopback { host, ports })) as *mut c_void;
    OK
}

unsafe extern "C" fn destroy(me: *mut c_void) {
    drop(Box::from_raw(me as *mut Loopback));
}

unsafe extern "C" fn attach(
    op: *mut Op,
    me: *mut c_void,
    args: *const NetArgs,
    result: *mut NetResult,
) -> Status {
    let me = &*(me as *const Loopback);
    let args = &*args;
    let id = text(args.sandbox_id);

    if id.is_empty() || args.flags != 0 {
        let words = format!("pod '{}': no id, or unknown flags 0x{:x}", id, args.flags);
        return fail(me.host, op, E_INVALID, &words);
    }
    if args.n_ports > 0 && !me.ports {
        let words = format!("pod '{}' publishes ports, and nothing can reach them there", id);
        return fail(me.host, op, E_PRECONDITION, &words);
    }
    let ips = ((*me.host).op_alloc)(op, size_of::<*const c_char>() as u64) as *mut *const c_char;
    *ips = c(b"127.0.0.1\0");
    (*result).ips = ips;
    (*result).n_ips = 1;
    OK
}

unsafe extern "C" fn detach(_op: *mut Op, _me: *mut c_void, _args: *const NetArgs) -> Status {
    OK // also a second time, and for a pod that was never attached
}

unsafe extern "C" fn status(_op: *mut Op, _me: *mut c_void) -> Status {
    OK
}

static OPS: NetworkOps = NetworkOps {
    size: size_of::<NetworkOps>() as u32,
    reserved0: 0,
    attach,
    detach,
    check: null(),
    status,
    gc: null(),
};

static PLUGIN: Plugin = Plugin {
    size: size_of::<Plugin>() as u32,
    abi_minor: 0,
    flags: 0,
    reserved0: 0,
    features: 0,
    name: c(b"net-loopback\0"),
    version: c(b"1.0\0"),
    storage: null(),
    runtime: null(),
    network: &OPS,
    create,
    start: null(),
    stop: null(),
    destroy,
    extension: null(),
};

#[repr(C)]
struct Note {
    namesz: u32,
    descsz: u32,
    kind: u32,
    name: [u8; 8],
    major: u32,
    needs_minor: u32,
}

// Read by the host before any code of this file runs: it needs 0.0.
#[used]
#[link_section = ".note.berth"]
static NOTE: Note = Note {
    namesz: 6,
    descsz: 8,
    kind: 1,
    name: *b"berth\0\0\0",
    major: 0,
    needs_minor: 0,
};

#[no_mangle]
pub extern "C" fn berth_plugin_v0(_host_minor: u32) -> *const Plugin {
    &PLUGIN
}
