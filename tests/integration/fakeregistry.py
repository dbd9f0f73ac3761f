"""A registry on loopback that speaks the distribution protocol and misbehaves on request."""
import base64
import http.server
import json
import re
import socket
import socketserver
import ssl
import subprocess
import threading
import urllib.parse

from pullharness import OCI_I, OCI_M, sha


class Registry:
    def __init__(self, tls=None, host="127.0.0.1", bind="127.0.0.1"):
        self.manifests, self.blobs, self.tags = {}, {}, {}
        self.log, self.lock = [], threading.Lock()
        self.auth = None  # None, "basic", "bearer"
        self.users = {"u": "p"}
        self.refresh_tokens = set()
        self.tokens, self.token_uses, self.token_status = set(), None, None
        self.realm = None
        self.fault = None  # fault(handler, path, count) -> True where it has answered
        self.counts = {}
        self.ranges = True
        self.etags = True
        self.active = self.most_active = 0

        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            registry = outer

            def log_message(self, *a):
                pass

            def do_GET(self):
                outer.handle(self)

            do_POST = do_GET

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *a):
                pass

        self.server = Server((bind, 0), Handler)
        if tls:
            ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ctx.load_cert_chain(tls.cert, tls.key)
            if tls.client_ca:
                ctx.verify_mode = ssl.CERT_REQUIRED
                ctx.load_verify_locations(tls.client_ca)
            self.server.socket = ctx.wrap_socket(self.server.socket, server_side=True)
        self.scheme = "https" if tls else "http"
        self.port = self.server.server_address[1]
        self.host = f"{host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()

    # --- content

    def push(self, repo, tag, image):
        self.blobs.update(image.blobs)
        self.push_manifest(repo, tag, image.manifest, image.doc.get("mediaType", OCI_M))
        return f"{self.host}/{repo}:{tag}"

    def push_manifest(self, repo, tag, data, media=OCI_I):
        self.manifests[sha(data)] = (data, media)
        self.tags[(repo, tag)] = sha(data)

    # --- answers

    def reply(self, h, status, body=b"", **headers):
        h.send_response(status)
        for k, v in headers.items():
            h.send_header(k.replace("_", "-"), str(v))
        if "Content_Length" not in headers:
            h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)
        h.wfile.flush()

    def error(self, h, status, code, message="", **headers):
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.reply(h, status, body, Content_Type="application/json", **headers)

    def handle(self, h):
        path = h.path
        body = h.rfile.read(int(h.headers.get("Content-Length") or 0))
        with self.lock:
            self.log.append((h.command, path, dict(h.headers), body))
            self.counts[path] = self.counts.get(path, 0) + 1
            count = self.counts[path]
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        try:
            if self.fault and self.fault(h, path, count):
                return
            if path.startswith("/token"):
                return self.token(h, body)
            if not self.allowed(h):
                return
            self.serve(h, path)
        except (BrokenPipeError, ConnectionResetError):
            h.close_connection = True
        finally:
            with self.lock:
                self.active -= 1

    def allowed(self, h):
        got = h.headers.get("Authorization", "")
        if self.auth == "basic":
            want = ["Basic " + base64.b64encode(f"{u}:{p}".encode()).decode()
                    for u, p in self.users.items()]
            if got not in want:
                self.error(h, 401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="here, there"')
                return False
        if self.auth == "bearer":
            if got.startswith("Bearer ") and got[7:] in self.tokens:
                if self.token_uses is not None:
                    self.token_uses -= 1
                    if self.token_uses < 0:
                        self.tokens.discard(got[7:])
                        self.token_uses = None
                        got = ""
                if got:
                    return True
            repo = re.match(r"/v2/(.*)/(manifests|blobs)/", h.path).group(1)
            realm = self.realm or f"{self.scheme}://{self.host}/token"
            self.error(h, 401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",'
                       f'service="svc",scope="repository:{repo}:pull"')
            return False
        return True

    def token(self, h, body):
        if self.token_status:
            return self.error(h, self.token_status, "NO")
        if h.command == "POST":
            q = urllib.parse.parse_qs(body.decode())
            if q.get("grant_type") != ["refresh_token"] or \
                    q.get("refresh_token", [""])[0] not in self.refresh_tokens:
                return self.error(h, 401, "UNAUTHORIZED")
            key = "access_token"
        else:
            q = urllib.parse.parse_qs(urllib.parse.urlparse(h.path).query)
            got = h.headers.get("Authorization")
            if got or self.users.get("*") is None:
                want = ["Basic " + base64.b64encode(f"{u}:{p}".encode()).decode()
                        for u, p in self.users.items()]
                if got not in want:
                    return self.error(h, 401, "UNAUTHORIZED")
            key = "token"
        assert q["service"] == ["svc"] and q["scope"][0].endswith(":pull")
        token = f"t{len(self.tokens)}-{self.port}"
        self.tokens.add(token)
        self.reply(h, 200, json.dumps({key: token, "expires_in": 300}).encode(),
                   Content_Type="application/json")

    def serve(self, h, path):
        m = re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path)
        if m:
            digest = m.group(2) if ":" in m.group(2) else self.tags.get(m.groups())
            if digest not in self.manifests:
                return self.error(h, 404, "MANIFEST_UNKNOWN", "manifest unknown")
            data, media = self.manifests[digest]
            return self.reply(h, 200, data, Content_Type=media, Docker_Content_Digest=digest)
        m = re.fullmatch(r"/v2/(.+)/blobs/(sha256:[0-9a-f]+)", path)
        if not m or m.group(2) not in self.blobs:
            return self.error(h, 404, "BLOB_UNKNOWN", "blob unknown")
        self.blob(h, self.blobs[m.group(2)], m.group(2))

    def blob(self, h, data, digest, cut=None, slow=None):
        """cut: the connection is closed after so many bytes."""
        start, status, extra = 0, 200, {}
        rng = re.fullmatch(r"bytes=(\d+)-", h.headers.get("Range", ""))
        if rng and self.ranges:
            start = int(rng.group(1))
            if start >= len(data):
                return self.error(h, 416, "RANGE_INVALID")
            status, extra = 206, {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if self.etags:
            extra["ETag"] = f'"{digest}"'
        body = data[start:]
        if cut is None:
            return self.reply(h, status, body, Content_Type="application/octet-stream", **extra)
        self.reply(h, status, body[:cut], Content_Length=len(body), **extra)
        h.close_connection = True
        h.connection.close()


class Proxy:
    """An HTTP proxy that tunnels to loopback, whatever the host is called."""

    def __init__(self):
        self.log = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                line = self.rfile.readline().decode()
                while self.rfile.readline().strip():
                    pass
                outer.log.append(line.strip())
                port = int(line.split()[1].rsplit(":", 1)[1])
                with socket.create_connection(("127.0.0.1", port)) as far:
                    self.wfile.write(b"HTTP/1.1 200 go on\r\n\r\n")
                    other = threading.Thread(target=outer.copy, args=(far, self.connection))
                    other.start()
                    outer.copy(self.connection, far)
                    other.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = allow_reuse_address = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def copy(a, b):
        try:
            while True:
                data = a.recv(65536)
                if not data:
                    break
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.server.shutdown()
        self.server.server_close()


class Certs:
    """A CA, a server's certificate for localhost and 127.0.0.1, and a client's."""

    def __init__(self, d, client_ca=False):
        def run(*a):
            subprocess.run(["openssl", *a], cwd=d, check=True, stderr=subprocess.DEVNULL)
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt",
            "-days", "2", "-subj", "/CN=test ca")
        (d / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:reg.test")
        for who in ("server", "client"):
            run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", who + ".key", "-out",
                who + ".csr", "-subj", "/CN=" + who)
            run("x509", "-req", "-in", who + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", who + ".crt", "-days", "2", "-extfile", "ext")
        self.dir, self.cert, self.key = d, str(d / "server.crt"), str(d / "server.key")
        self.ca = d / "ca.crt"
        self.client_ca = str(self.ca) if client_ca else None
