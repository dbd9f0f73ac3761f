"""The seccomp filters of a process, as the kernel has them."""
import ctypes
import os
import struct

SEIZE, INTERRUPT, GET_FILTER, DETACH = 0x4206, 0x4207, 0x420C, 17
WALL = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request, pid, addr=None, data=None):
    r = _libc.ptrace(request, pid, addr, data)
    if r < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
    return r


def filters(pid):
    """[bytes], the newest first; None where this kernel does not tell."""
    _ptrace(SEIZE, pid)
    try:
        _ptrace(INTERRUPT, pid)
        os.waitpid(pid, WALL)
        out = []
        while True:
            try:
                n = _ptrace(GET_FILTER, pid, len(out))
            except OSError as e:
                return out if e.errno in (2, 22) else None  # ENOENT: the last one; EINVAL: there is none
            buf = ctypes.create_string_buffer(n * 8)
            _ptrace(GET_FILTER, pid, len(out), ctypes.addressof(buf))
            out.append(buf.raw)
    finally:
        _ptrace(DETACH, pid)


LD, RET, JA, JEQ, JGT, JGE, JSET = 0x20, 0x06, 0x05, 0x15, 0x25, 0x35, 0x45
ARCHS = {"x86-64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}


def parts(program):
    """What comes before a filter that libseccomp made, and that: two lists of instructions. The order of the first part
    is another one each time that runc makes it."""
    ins = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    begins = [n for n, (code, _, _, k) in enumerate(ins) if code == LD and k == 4]
    return ins[:begins[-1]], ins[begins[-1]:]


def decide(ins, arch, nr):
    """What it returns, or "on" where it comes to its end."""
    at, a = 0, None
    while at < len(ins):
        code, yes, no, k = ins[at]
        at += 1
        if code == LD:
            a = {0: nr, 4: arch}[k]
        elif code == RET:
            return hex(k)
        elif code == JA:
            at += k
        else:
            at += yes if {JEQ: a == k, JGT: a > k, JGE: a >= k, JSET: bool(a & k)}[code] else no
    return "on"


def decisions(ins):
    """Where it decides in another way than for the number before."""
    out = []
    for name, arch in ARCHS.items():
        last = None
        for base in (0, 0x40000000, 0x7FFFF800, 0x80000000, 0xC0000000, 0xFFFFF800):
            for nr in range(base, base + 2048):
                now = decide(ins, arch, nr)
                if now != last:
                    out.append(f"{name} from {nr:#x}: {now}")
                last = now
    return out
