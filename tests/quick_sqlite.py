"""SQLite does not wait for the disk: no test takes the power away."""

from typing import Any

from sqlalchemy import Engine, event


@event.listens_for(Engine, "connect")
def do_not_wait(connection: Any, record: Any) -> None:
    if type(connection).__module__ == "sqlite3":
        connection.execute("PRAGMA synchronous=OFF")
