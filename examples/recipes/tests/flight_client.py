"""Runs three queries, waits until its input is closed, then fetches their results. ADDRESS is its argument."""

import sys

import pyarrow as pa
import pyarrow.flight as flight

client = flight.connect("grpc://" + sys.argv[1])
alice = flight.FlightCallOptions(headers=[(b"x-user", b"alice")], timeout=20)
bob = flight.FlightCallOptions(headers=[(b"x-user", b"bob")], timeout=20)

tickets = []
for rows in (0, 10, 100_000):
    info = client.get_flight_info(flight.FlightDescriptor.for_command(str(rows)), alice)
    assert info.schema == pa.schema([pa.field("n", pa.int64(), nullable=False)]), info.schema
    tickets.append((rows, info.endpoints[0].ticket))

sys.stdin.read()
try:
    client.get_flight_info(flight.FlightDescriptor.for_command("1"), alice)
    raise SystemExit("a query ran after the signal")
except flight.FlightUnavailableError:
    pass



def fetch(ticket, options):
    try:
        return client.do_get(ticket, options).read_all()
    except KeyError:  # "not found"
        return None


for rows, ticket in tickets:
    assert fetch(ticket, bob) is None, "fetched by another user"
    assert fetch(ticket, alice)["n"].to_pylist() == list(range(rows))
