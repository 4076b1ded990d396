"""The first tables: responses, conversations, items, events, steps, keys, approvals, workers.

There is no way back: going to an older gateway means restoring a backup.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    _responses()
    _conversations()
    _items()
    _journal()
    _workers()


def _responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("previous_response_id", sa.Text()),
        sa.Column("conversation_id", sa.Text()),
        sa.Column("conversation_start", sa.Integer()),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("lease_holder", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
        sa.ForeignKeyConstraint(
            ["previous_response_id"], ["responses.id"], name="fk_responses_previous_response_id"
        ),
    )
    op.create_index("ix_responses_previous_response_id", "responses", ["previous_response_id"])
    op.create_index("ix_responses_created_at", "responses", ["created_at"])
    op.create_index("ix_responses_status", "responses", ["status", "created_at"])
    op.create_index(
        "ix_responses_deleted",
        "responses",
        ["created_at"],
        sqlite_where=sa.text("deleted IS 1"),
        postgresql_where=sa.text("deleted IS true"),
    )


def _conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("next_position", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("lock_holder", sa.Text()),
        sa.Column("lock_until", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_created_at", "conversations", ["created_at"])


def _items() -> None:
    op.create_table(
        "items",
        sa.Column(
            "key",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            autoincrement=True,
        ),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text()),
        sa.Column("direction", sa.Text()),
        sa.Column("position", sa.Integer()),
        sa.Column("conversation_id", sa.Text()),
        sa.Column("conversation_position", sa.Integer()),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_items"),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_items_response_id"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_items_conversation_id"
        ),
        sa.UniqueConstraint("response_id", "direction", "position", name="uq_items_response"),
        sa.UniqueConstraint(
            "conversation_id", "conversation_position", name="uq_items_conversation"
        ),
        sa.CheckConstraint(
            "response_id IS NOT NULL OR conversation_id IS NOT NULL", name="ck_items_home"
        ),
    )
    op.create_index("ix_items_item_id", "items", ["item_id", "owner"])


def _journal() -> None:
    op.create_table(
        "events",
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("frame", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("response_id", "sequence", name="pk_events"),
        sa.ForeignKeyConstraint(
            ["response_id"], ["responses.id"], name="fk_events_response_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "steps",
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("response_id", "number", name="pk_steps"),
        sa.ForeignKeyConstraint(
            ["response_id"], ["responses.id"], name="fk_steps_response_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "approvals",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "request_id", name="pk_approvals"),
    )


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("added_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("url", name="pk_workers"),
    )
