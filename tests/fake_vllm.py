"""A stand-in for a Python interpreter with vLLM: it takes the command line of `vllm serve`; `--fake` says how.

    fake_vllm.py -c CODE                     prints what an interpreter with vllm prints as its version
    fake_vllm.py -m MODULE … [--fake WORD]   is the server; WORD is one of those below

It has a child, as vLLM has workers, and answers requests for a completion with a text made of the prompt and the seed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CRASH = """\
(APIServer pid=1) INFO 01-02 03:04:05 [api_server.py:1] starting
(Worker pid=3) ERROR 01-02 03:04:05 [executor.py:9] Traceback (most recent call last):
(Worker pid=3) ERROR 01-02 03:04:05 [executor.py:9] ValueError: the weights are of \x1b[31manother shape
(EngineCore pid=2) Exception: WorkerProc failed to start. See stack trace for root cause.
RuntimeError: Engine core initialization failed. See root cause above.
"""
options: Any = None
num_posts = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer({})
        elif self.path == "/v1/models":
            name = "another" if options.fake == "another-server" else options.served_model_name
            self.answer({"data": [{"id": name, "owned_by": "fake", "root": options.model}]})

    def do_POST(self) -> None:
        global num_posts
        num_posts += 1
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.answer({"error": "no key"}, status=401)
            return
        if options.fake == "dies-at-work" and num_posts > 4:
            print("MemoryError: no more room", flush=True)
            os._exit(3)
        if options.fake == "slow":
            time.sleep(0.5)
        if options.fake.startswith("waits-in:"):
            wait_in(Path(options.fake.partition(":")[2]))
        text = f" {body['prompt'][-1:]} {body['seed']}" if isinstance(body["prompt"], str) else " ids"
        self.answer({"choices": [{"text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}})

    def answer(self, body: Any, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def wait_in(folder: Path) -> None:
    """Once the run in the folder has a chunk on disk, until there is a file `released`."""
    chunk = folder / "run" / "samples" / "000-dev.jsonl"
    if chunk.exists() and chunk.stat().st_size:
        print("a request waits", flush=True)
        while not (folder / "released").exists():
            time.sleep(0.05)


def main(arguments: list[str]) -> None:
    global options
    if arguments[0] == "-c":
        print('["vllm 9.9"]')
        return
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("-m", "--model", "--served-model-name", "--host"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    parser.add_argument("--fake", default="serve")
    options, _ = parser.parse_known_args(arguments)
    ignored = options.fake == "ignores-sigterm"
    if ignored:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its child inherits this
    print(f"group {os.getpgrp()} server {os.getpid()}", flush=True)
    subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"])
    if options.fake == "crashes":
        sys.exit(CRASH)
    if options.fake == "never-ready":
        time.sleep(600)
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
