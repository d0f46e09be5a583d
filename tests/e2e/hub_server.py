"""A hub with one model, for tests: hub_server.py FOLDER PORT_FILE.

Knows ranges, cuts the first transfer of every large file in its middle, and keeps "gated" models for
those with the token "right".
"""
import http.server
import json
import os
import sys

folder, port_file = sys.argv[1:]
cut = set()


class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, code, body, headers=()):
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if "gated" in self.path and self.headers.get("Authorization") != "Bearer right":
            return self.answer(401, b"{}")
        if self.path.startswith("/api/models/"):
            if "/missing/" in self.path:
                return self.answer(404, b"{}")
            files = [{"rfilename": name} for name in sorted(os.listdir(folder))]
            return self.answer(200, json.dumps({"sha": "c0ffee", "siblings": files}).encode())
        path = os.path.join(folder, self.path.rsplit("/", 1)[1])
        body = open(path, "rb").read()
        begin = 0
        if "Range" in self.headers:
            begin = int(self.headers["Range"].split("=")[1].split("-")[0])
        rest = body[begin:]
        headers = [("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")] if begin else []
        if begin == 0 and len(body) > 20000 and path not in cut:
            cut.add(path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.connection.shutdown(2)
            return None
        print(f"{path} from {begin}", flush=True)
        return self.answer(206 if begin else 200, rest, headers)

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
with open(port_file + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(port_file + ".new", port_file)
server.serve_forever()
