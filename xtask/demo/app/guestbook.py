"""A guest book: POST / adds a row, GET / says how many there are and who answered. The rows live in redis."""

import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATABASE = os.environ.get("DATABASE", "db")


def redis(*words):
    """Sends one command to the database and returns the first line of its answer."""
    with socket.create_connection((DATABASE, 6379), timeout=2) as stream:
        request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        stream.sendall(request.encode())
        answer = stream.makefile("rb").readline().decode().strip()
    if answer.startswith("-"):
        raise OSError(answer)
    return answer[1:]


class GuestBook(BaseHTTPRequestHandler):
    def answer(self, *words):
        try:
            rows, status = redis(*words), 200
        except OSError as error:
            rows, status = f"no database ({error}):", 503
        web, app = self.headers.get("X-Web", "-"), socket.gethostname()
        body = f"{rows} rows, answered by web {web}, app {app}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer("LLEN", "guests")

    def do_POST(self):
        length = min(int(self.headers.get("Content-Length", 0)), 4096)
        self.answer("RPUSH", "guests", self.rfile.read(length).decode(errors="replace"))

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("", 8000), GuestBook).serve_forever()
