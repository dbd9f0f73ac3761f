"""A disk with a volatile cache, served over NBD: what was written since the last flush is in memory, and a power cut leaves
of it what chance leaves.

Blocks of 4096 bytes are whole or not there, as with any disk of today; of a longer write any of its blocks may be. What is
written with FUA, and all before a flush, is on the disk. Each disk has one client, qemu (tests/vm/run --disk SOCKET)."""
import os
import random
import socket
import struct
import threading

BLOCK = 4096
OPTION_MAGIC, REPLY_MAGIC = b"IHAVEOPT", 0x3e889045565a9
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, (1 << 31) + 1
HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 4, 8
READ, WRITE, DISC, FLUSH = 0, 1, 2, 3
FUA = 1
EINVAL = 22


class Disk:
    """A file and the blocks that a cut may lose."""

    def __init__(self, path, size):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.size = size
        os.ftruncate(self.fd, size)
        self.log = []  # (block, content) in the order of the writes
        self.now = {}  # block -> content
        self.ignores_flushes = False  # a broken one

    def close(self):
        os.close(self.fd)

    def block(self, n):
        return self.now[n] if n in self.now else os.pread(self.fd, BLOCK, n * BLOCK)

    def read(self, at, length):
        if not self.now:
            return os.pread(self.fd, length, at)
        first, last = at // BLOCK, (at + length - 1) // BLOCK
        data = bytearray(os.pread(self.fd, (last - first + 1) * BLOCK, first * BLOCK))
        for n in range(first, last + 1):
            if n in self.now:
                data[(n - first) * BLOCK:(n - first + 1) * BLOCK] = self.now[n]
        return bytes(data[at - first * BLOCK:at - first * BLOCK + length])

    def write(self, at, data, fua):
        first, last = at // BLOCK, (at + len(data) - 1) // BLOCK
        skip = at - first * BLOCK
        if skip or (skip + len(data)) % BLOCK:
            whole = bytearray(self.read(first * BLOCK, (last - first + 1) * BLOCK))
            whole[skip:skip + len(data)] = data
            data = bytes(whole)
        for n in range(first, last + 1):
            content = data[(n - first) * BLOCK:(n - first + 1) * BLOCK]
            if fua and not self.ignores_flushes:
                os.pwrite(self.fd, content, n * BLOCK)
                self.now.pop(n, None)
            else:
                self.log.append((n, content))
                self.now[n] = content
        if fua and not self.ignores_flushes:
            self.log = [w for w in self.log if not first <= w[0] <= last]

    def flush(self):
        run, at = [], None
        for n in sorted(self.now):
            if at is not None and n == at + len(run) and len(run) < 256:
                run.append(self.now[n])
                continue
            if run:
                os.pwrite(self.fd, b"".join(run), at * BLOCK)
            run, at = [self.now[n]], n
        if run:
            os.pwrite(self.fd, b"".join(run), at * BLOCK)
        self.log, self.now = [], {}

    def cut(self, how, rng=random):
        """The power fails. how: "keep" nothing is lost; "prefix" only what was written last; "subset" any block; "lose" all of
        it. Returns how many writes of blocks there were, and how many of them were lost."""
        pending = len(self.log)
        if how == "prefix":
            self.log = self.log[:rng.randint(0, pending)]
        elif how == "subset":
            share = rng.random()
            self.log = [w for w in self.log if rng.random() < share]
        elif how == "lose":
            self.log = []
        lost = pending - len(self.log)
        self.now = dict(self.log)
        self.flush()
        return pending, lost


class Server:
    """Serves one disk at a socket, on a thread, until stop()."""

    def __init__(self, disk, path):
        self.disk, self.path = disk, path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.failed = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def stop(self):
        """The client has gone: what it had sent is taken in first."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        os.unlink(self.path)
        if self.failed:
            raise self.failed

    def run(self):
        try:
            while True:
                try:
                    client = self.listener.accept()[0]
                except OSError:
                    return
                with client:
                    self.serve(client)
        except (EOFError, ConnectionError):
            pass
        except Exception as e:  # told by stop()
            self.failed = e

    def get(self, client, n):
        data = bytearray(n)
        view, at = memoryview(data), 0
        while at < n:
            got = client.recv_into(view[at:])
            if not got:
                raise EOFError
            at += got
        return bytes(data)

    def greet(self, client):
        """Up to the transmission; False where the client ends it."""
        flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA
        client.sendall(b"NBDMAGIC" + OPTION_MAGIC + struct.pack(">H", 3))  # fixed newstyle, no zeroes
        self.get(client, 4)
        while True:
            magic, option, length = struct.unpack(">8sII", self.get(client, 16))
            assert magic == OPTION_MAGIC
            self.get(client, length)

            def reply(kind, data=b""):
                client.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)
            if option == OPT_EXPORT_NAME:
                client.sendall(struct.pack(">QH", self.disk.size, flags))
                return True
            if option in (OPT_INFO, OPT_GO):
                reply(REP_INFO, struct.pack(">HQH", 0, self.disk.size, flags))
                reply(REP_ACK)
                if option == OPT_GO:
                    return True
            elif option == OPT_ABORT:
                reply(REP_ACK)
                return False
            else:
                reply(REP_ERR_UNSUP)

    def serve(self, client):
        if not self.greet(client):
            return
        while True:
            magic, flags, kind, handle, at, length = struct.unpack(">IHHQQI", self.get(client, 28))
            assert magic == REQUEST_MAGIC
            if kind == DISC:
                return
            data, error = b"", 0
            if kind == WRITE:
                self.disk.write(at, self.get(client, length), flags & FUA)
            elif kind == READ:
                data = self.disk.read(at, length)
            elif kind == FLUSH:
                if not self.disk.ignores_flushes:
                    self.disk.flush()
            else:
                error = EINVAL
            client.sendall(struct.pack(">IIQ", ANSWER_MAGIC, error, handle) + data)
