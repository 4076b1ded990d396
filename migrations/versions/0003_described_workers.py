"""What is said of workers that were added while a gateway ran, and their keys, sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a description, as JSON, and a key that only gateways with the seal key can read."""
    op.add_column(
        "workers", sa.Column("description", sa.Text(), nullable=False, server_default="{}")
    )
    op.add_column("workers", sa.Column("sealed_key", sa.Text()))
