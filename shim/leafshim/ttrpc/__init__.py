"""ttrpc: containerd's small RPC protocol over unix sockets. `docs/ttrpc.md` describes the wire.

protobuf.py    messages: the schema as data, the codec
frames.py      the 10-byte header and the 4 MiB limit
messages.py    the envelopes Request and Response
service.py     Method: what a service offers
connection.py  the protocol without I/O: bytes in, events out
client.py      a blocking client
server.py      a server for an epoll loop
aio.py         client and server for asyncio; the shim never imports it
"""
