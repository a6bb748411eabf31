"""pyarrow reads results over HTTP; a client that reads one byte a second gets in nobody's way.

`python pyarrow_client.py http://127.0.0.1:PORT`: a gateway with a large stash and 50,000 orders.
"""

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

import orders

BASE = sys.argv[1].rstrip("/")
SLOW_SECONDS = 6
LARGE = {"first": 0, "rows": 50_000, "width": 400}


def request(path, user, body=None):
    headers = {"x-forwarded-user": user}
    if body is not None:
        headers["content-type"] = "application/json"
        body = json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(BASE + path, body, headers), timeout=60)


def ask(user, key, parameters, expected="arrow"):
    """The data of the last event."""
    body = {"format": "ARROW_STREAM", "parameters": parameters}
    with request(f"/api/analytics/query/{key}", user, body) as response:
        data = [line[5:] for line in response.read().decode().splitlines() if line.startswith("data:")]
    last = json.loads(data[-1])
    assert last["type"] == expected, last
    return last


def take(user, statement):
    """Decodes the stream as it arrives."""
    with request(f"/api/analytics/arrow-result/{statement}", user) as response:
        assert response.headers["content-type"] == "application/vnd.apache.arrow.stream"
        with pa.ipc.open_stream(response) as reader:
            table = reader.read_all()
        assert response.read() == b"", "bytes follow the stream"
    table.validate(full=True)
    return table


def run(user, key, **parameters):
    return take(user, ask(user, key, parameters)["statementId"])


def metric(name):
    with request("/metrics", "anyone") as response:
        for line in response.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split(" ")[1])
    raise AssertionError(f"there is no metric {name}")


def until(what, condition, patience=20):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def check_results():
    table = run("ann", "orders", first=100, rows=10_000)
    expected = orders.totals(range(100, 10_100))
    found = {name: pc.sum(table[name]).as_py() for name in ("id", "quantity", "amount_cents")}
    found |= {"rows": table.num_rows, "notes": table.num_rows - table["note"].null_count}
    assert found == expected, (found, expected)

    table = run("ann", "revenue_by_region", from_day=0, to_day=9)
    regions = dict(zip(table["region"].to_pylist(), table["amount_cents"].to_pylist()))
    assert regions == orders.by_region(range(5_000)), regions
    averages = [amount / count for amount, count in zip(regions.values(), table["orders"].to_pylist())]
    assert table["average_cents"].to_pylist() == averages

    table = run("ann", "orders_in_region", region="asia", rows=500)
    assert set(table["region"].to_pylist()) == {"asia"} and table.num_rows == 500
    table = run("ann", "orders", first=0, rows=0)
    assert table.num_rows == 0 and "amount_cents" in table.column_names
    print("pyarrow: sums, averages and empty results agree")


def check_gone():
    statement = ask("ann", "orders", {"first": 0, "rows": 10})["statementId"]
    take("ann", statement)
    for user in ("ann", "bob"):
        try:
            take(user, statement)
            raise AssertionError("it was handed out twice")
        except urllib.error.HTTPError as error:
            assert error.code == 410, error.code
    print("pyarrow: a result is handed out once")


class SlowReader:
    """Asks for a result and reads one byte a second."""

    def __init__(self, user, statement):
        address = urlsplit(BASE)
        self.socket = socket.socket()
        # Or the system would take in what is not read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.socket.connect((address.hostname, address.port))
        path = f"/api/analytics/arrow-result/{statement}"
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-forwarded-user: {user}\r\n\r\n".encode())
        self.read = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.thread.start()

    def go_on(self):
        while not self.over.is_set():
            self.read += len(self.socket.recv(1))
            self.over.wait(1)

    def hang_up(self):
        self.over.set()
        self.thread.join()
        self.socket.close()


def check_slow_reader():
    statement = ask("slow", "order_labels", LARGE)["statementId"]
    before = metric("cloakroom_claims_total{outcome=\"put_back\"}")
    slow = SlowReader("slow", statement)
    until("the download begins", lambda: metric("cloakroom_claims") == 1)
    slowest = 0.0
    end = time.monotonic() + SLOW_SECONDS
    while time.monotonic() < end:
        # Who had to wait for the slow reader would wait until the time of a request is over.
        began = time.monotonic()
        assert run("quick", "orders", first=0, rows=1_000).num_rows == 1_000
        slowest = max(slowest, time.monotonic() - began)
    assert slow.read >= SLOW_SECONDS - 1, slow.read
    # What it has not read counts. The other's last claim ends a moment after its last byte.
    until("one claim is left", lambda: metric("cloakroom_claims") == 1)
    assert metric("cloakroom_used_bytes") > 20e6
    slow.hang_up()
    until("its result is put back", lambda: metric("cloakroom_claims_total{outcome=\"put_back\"}") > before)
    assert take("slow", statement).num_rows == LARGE["rows"]
    until("nothing is held", lambda: metric("cloakroom_used_bytes") == 0)
    print(f"slow reader: {slow.read} bytes in {SLOW_SECONDS} s; others took {slowest:.3f} s at most")


check_results()
check_gone()
check_slow_reader()
