"""Addresses that a gateway listens on, alone or in corral serve: one that is taken, a socket file, one that is none."""
import os
import socket
import subprocess
import time

from servers import ARRANGEMENT, ROOT, free_port

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
PROGRAM = [BINARY, "serve"] if ARRANGEMENT == "one" else [os.path.join(os.path.dirname(BINARY), "gateway")]


def serve(folder, listen, *options):
    return [*PROGRAM, "--listen", listen, "--admin-listen", f"127.0.0.1:{free_port()}", "--state-dir", str(folder / "state"), *options]


def test_a_second_one_does_not_share_the_port(corral, tmp_path):
    """Its workers' listeners would take half of the first one's clients."""
    done = subprocess.run(serve(tmp_path, corral.url.removeprefix("http://"), "--workers", "2"), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "another program has this address" in done.stderr, done.stderr


def test_what_is_no_address(tmp_path):
    done = subprocess.run(serve(tmp_path, "nowhere"), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "'nowhere' is not an address to listen on" in done.stderr, done.stderr


def test_a_socket_file_with_any_number_of_workers(tmp_path):
    path = tmp_path / "corral.sock"
    program = subprocess.Popen(serve(tmp_path, f"unix:{path}", "--workers", "4"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not path.exists() and time.monotonic() < until and program.poll() is None:
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(path))
            s.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        program.terminate()
        assert program.wait(20) == 0
