"""The tables, as SQLAlchemy Core metadata: what the migrations must add up to.

An item is one row with up to two homes, a response and a conversation; it lives as long as it
has one. So an item is stored once however many lists show it.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData()

responses = Table(
    "responses",
    metadata,
    Column("id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("previous_response_id", Text),
    # No foreign key: a response survives its conversation and still names it.
    Column("conversation_id", Text),
    # Items of the conversation below this position were said before this response.
    Column("conversation_start", Integer),
    Column("background", Boolean, nullable=False),
    Column("body", Text, nullable=False),
    # A tombstone: unknown to clients, kept for the responses that continue it.
    Column("deleted", Boolean, nullable=False, server_default=false()),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("lease_holder", Text),
    Column("lease_until", Double),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("id", name="pk_responses"),
    ForeignKeyConstraint(
        ["previous_response_id"], ["responses.id"], name="fk_responses_previous_response_id"
    ),
    Index("ix_responses_previous_response_id", "previous_response_id"),
    Index("ix_responses_created_at", "created_at"),
    Index("ix_responses_status", "status", "created_at"),
)

# Few rows: the rest would only lead planners astray.
Index(
    "ix_responses_deleted",
    responses.c.created_at,
    sqlite_where=responses.c.deleted.is_(True),
    postgresql_where=responses.c.deleted.is_(True),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    # Where the next item goes; counting up in the row is what puts appends in a line.
    Column("next_position", Integer, nullable=False, server_default=text("0")),
    Column("lock_holder", Text),
    Column("lock_until", Double),
    PrimaryKeyConstraint("id", name="pk_conversations"),
    Index("ix_conversations_created_at", "created_at"),
)

items = Table(
    "items",
    metadata,
    Column("key", BigInteger().with_variant(Integer, "sqlite"), nullable=False, autoincrement=True),
    Column("owner", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("response_id", Text),
    Column("direction", Text),  # input or output: the alphabet puts them in order
    Column("position", Integer),
    Column("conversation_id", Text),
    Column("conversation_position", Integer),
    Column("payload", Text, nullable=False),
    PrimaryKeyConstraint("key", name="pk_items"),
    ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_items_response_id"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="fk_items_conversation_id"
    ),
    UniqueConstraint("response_id", "direction", "position", name="uq_items_response"),
    UniqueConstraint("conversation_id", "conversation_position", name="uq_items_conversation"),
    CheckConstraint("response_id IS NOT NULL OR conversation_id IS NOT NULL", name="ck_items_home"),
    Index("ix_items_item_id", "item_id", "owner"),
)

events = Table(
    "events",
    metadata,
    Column("response_id", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    PrimaryKeyConstraint("response_id", "sequence", name="pk_events"),
    ForeignKeyConstraint(
        ["response_id"], ["responses.id"], name="fk_events_response_id", ondelete="CASCADE"
    ),
)

steps = Table(
    "steps",
    metadata,
    Column("response_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("response_id", "number", name="pk_steps"),
    ForeignKeyConstraint(
        ["response_id"], ["responses.id"], name="fk_steps_response_id", ondelete="CASCADE"
    ),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request_hash", Text, nullable=False),
    # No foreign key: the key is bound before the response is begun.
    Column("response_id", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    PrimaryKeyConstraint("owner", "key", name="pk_idempotency_keys"),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("owner", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    # The response that brought the answer. No foreign key: it is named before it is begun.
    Column("response_id", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    PrimaryKeyConstraint("owner", "request_id", name="pk_approvals"),
)

# Workers that were added while a gateway ran, for the next start.
workers = Table(
    "workers",
    metadata,
    Column("url", Text, nullable=False),
    Column("added_at", Double, nullable=False),
    # JSON: what is said of it.
    Column("description", Text, nullable=False, server_default="{}"),
    # Its own key, as the registry has sealed it.
    Column("sealed_key", Text),
    PrimaryKeyConstraint("url", name="pk_workers"),
)

# The tool lists that operators have agreed to. A label whose server is another now (its command
# or URL) has a row for each: two gateways may have different files and one database.
pinned_tools = Table(
    "pinned_tools",
    metadata,
    Column("label", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("tools", Text, nullable=False),
    Column("approved_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("label", "identity", name="pk_pinned_tools"),
)


class database_now(FunctionElement[float]):  # noqa: N801 - an SQL function, used like func.now
    """Unix seconds by the database's clock: gateways' clocks may differ, leases may not."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: SQLCompiler, **_: Any) -> str:
    # unixepoch('subsec') would need SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: database_now, _compiler: SQLCompiler, **_: Any) -> str:
    # Not now(), which is the start of the transaction: it may have waited for a lock since.
    return "extract(epoch FROM clock_timestamp())::double precision"
