"""Count what was used of a policy in a ledger file, without a broker."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from broker.core.errors import Code, Unavailable
from broker.core.usage import Usage
from broker.ledger.failures import is_store_failure, unavailable
from broker.ledger.sqlite import offline_engine
from broker.ledger.usage import UsageCount


def count_usage(path: Path, since: float) -> Usage:
    """Count what was used, in a ledger file that a broker may be using at the same time.

    Raises ``Unavailable`` if the file cannot be read as a ledger.
    """
    if not path.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {path}")
    engine = offline_engine(path, immutable=not Path(f"{path}-wal").exists())
    counting = UsageCount(since)
    try:
        for one in counting.passes():
            with engine.begin() as connection:
                one(connection)
    except SQLAlchemyError as error:
        if is_store_failure(error):
            raise unavailable(error) from error
        raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: its tables are missing") from error
    except ValueError as error:  # an entry that is not one
        raise Unavailable(Code.LEDGER_CORRUPT, "the ledger is damaged; broker ledger verify says how") from error
    finally:
        engine.dispose()
    return counting.result()
