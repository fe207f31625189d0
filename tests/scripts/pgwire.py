"""A client of the Postgres wire in a page: the simple protocol, text results, no authentication, no encryption."""

import socket
import struct


class SqlError(Exception):
    """What the server said: `code` is the SQLSTATE."""

    def __init__(self, fields):
        self.code, self.message = fields.get("C", "?????"), fields.get("M", "")
        super().__init__(f"{self.code}: {self.message}")


class Result:
    """Columns as (name, type OID), rows as lists of text or None, and the command tag."""

    def __init__(self):
        self.columns, self.rows, self.tag = [], [], ""


class Connection:
    """One session; statements run one after the other."""

    def __init__(self, port, host="127.0.0.1", user="postgres", database="postgres", timeout=60):
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.socket.makefile("rb")
        pairs = b"".join(w.encode() + b"\0" for w in ("user", user, "database", database))
        body = struct.pack("!i", 196608) + pairs + b"\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self.collect()

    def message(self):
        head = self.stream.read(5)
        if len(head) < 5:
            raise ConnectionError("the server closed the connection")
        return head[:1], self.stream.read(struct.unpack("!i", head[1:])[0] - 4)

    def collect(self):
        """Reads up to ReadyForQuery; gives the last result."""
        result, error = Result(), None
        while True:
            kind, body = self.message()
            if kind == b"T":
                result = Result()
                at = 2
                for _ in range(struct.unpack("!h", body[:2])[0]):
                    end = body.index(b"\0", at)
                    result.columns.append((body[at:end].decode(), struct.unpack("!i", body[end + 7 : end + 11])[0]))
                    at = end + 19
            elif kind == b"D":
                row, at = [], 2
                for _ in range(struct.unpack("!h", body[:2])[0]):
                    size = struct.unpack("!i", body[at : at + 4])[0]
                    at += 4
                    row.append(None if size < 0 else body[at : at + size].decode())
                    at += max(size, 0)
                result.rows.append(row)
            elif kind == b"C":
                result.tag = body[:-1].decode()
            elif kind == b"E":
                error = SqlError({f[:1].decode(): f[1:].decode() for f in body.split(b"\0") if f})
            elif kind == b"Z":
                if error:
                    raise error
                return result

    def query(self, sql):
        """Runs a statement; raises SqlError."""
        body = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        return self.collect()

    def close(self):
        """Ends the session."""
        self.socket.sendall(b"X\0\0\0\4")
        self.socket.close()
