"""Optuna's database, which workers on many machines share: address, settings, opening, closing."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rnnopt.config.errors import UserError
from rnnopt.config.old_names import current_settings
from rnnopt.config.run_config import RunConfig

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

PATIENCE = 10  # seconds to wait for a server
ATTEMPTS = 5  # to open a database whose tables another worker is creating


def with_driver(storage: str) -> str:
    """A database's address with its driver.

    Raises:
        UserError: it is not an address.
    """
    kind, separator, rest = storage.partition("://")
    if not separator:
        raise UserError(
            f"storage must read like postgresql://user@machine/database, got {storage!r}."
        )
    return f"postgresql+psycopg://{rest}" if kind in ("postgres", "postgresql") else storage


def open_storage(address: str, **options: Any) -> "RDBStorage":
    """Opens the database.

    Args:
        address: address from `with_driver`.
        options: options of Optuna's RDBStorage.

    Raises:
        UserError: it cannot be reached.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for _ in range(ATTEMPTS):
            try:
                return _connect(address, options)
            except (SQLAlchemyError, RuntimeError) as error:
                if not _tables_were_being_made(error):
                    raise
                time.sleep(0.3)
        return _connect(address, options)
    except ImportError as error:
        raise UserError(
            f"this storage needs a driver that is not installed ({error}); those of postgresql://"
            ' and sqlite:// come with pip install "rnnopt[sweep]".'
        ) from error
    except (SQLAlchemyError, ValueError, RuntimeError) as error:
        raise UserError(f"the storage cannot be used: {reason_of(error)}.") from error


def _tables_were_being_made(error: Exception) -> bool:
    """Whether another worker created the tables of a new database at the same time."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    if isinstance(error, OperationalError):
        return "already exists" in str(error)
    return isinstance(error, IntegrityError | ProgrammingError | RuntimeError)


def reason_of(error: Exception) -> str:
    """A database's error message in one line."""
    cause = error.__cause__ if getattr(error, "orig", None) is None else error
    text = str(getattr(cause, "orig", None) or cause or error).strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")


def _connect(address: str, options: dict[str, Any]) -> "RDBStorage":
    engine: dict[str, Any] = {"pool_pre_ping": True}  # survives a restart of the server
    if address.startswith("sqlite"):
        engine = {"connect_args": {"timeout": 60}}
    elif address.startswith("postgresql+psycopg"):
        engine["connect_args"] = {"connect_timeout": PATIENCE}
    with quiet() as optuna:
        return optuna.storages.RDBStorage(address, engine_kwargs=engine, **options)


def close(storage: "RDBStorage") -> None:
    """Closes the connections to the database."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def quiet() -> Iterator[Any]:
    """Optuna without its log, and without its warnings that heartbeats are experimental."""
    try:
        import optuna
    except ImportError as error:
        raise UserError('this needs Optuna: pip install "rnnopt[sweep]".') from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield optuna


def check_same(saved: dict[str, Any], now: dict[str, Any], place: str) -> None:
    """Raises UserError if the settings at `place` differ; the message names the differences."""
    changes = []
    unsaid = current_settings(asdict(RunConfig()))  # of fields that an earlier version did not have
    for part in now:
        before, after = current_settings(saved.get(part, {})), current_settings(now[part])
        for name in sorted(before.keys() | after.keys()):
            was = before.get(name, unsaid.get(name))
            if was != after.get(name):
                changes.append(f"{name} was {was}, is {after.get(name)}")
    if changes:
        differences = "; ".join(changes)
        raise UserError(
            f"{place} was begun with other settings ({differences}): choose another --out."
        )


def database_errors() -> tuple[type[Exception], ...]:
    """The exceptions of a database that does not answer."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError, StorageInternalError
