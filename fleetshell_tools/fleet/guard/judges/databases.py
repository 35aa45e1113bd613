"""Judges of class database: statements and programs that drop, empty or overwrite whole tables, databases and caches."""

from __future__ import annotations

import re

from fleetshell_tools.fleet.guard.judges.words import Row, by_words, table
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import STAR

_DROPS = ("database", "drop", "drops, empties or stops a database")
_ROWS: tuple[Row, ...] = (
    ("mysqladmin mariadb-admin", _DROPS, ("drop|shutdown",)),
    (
        "redis-cli valkey-cli keydb-cli",
        _DROPS,
        (
            "flushall|FLUSHALL|flushdb|FLUSHDB|shutdown|SHUTDOWN|FlushAll|FlushDB",
            "CONFIG|config SET|set dir|dbfilename",
            "DEBUG|debug SEGFAULT|segfault",
            "CLUSTER|cluster RESET|reset",
            f"del|DEL|unlink|UNLINK {STAR}",
            "replicaof|REPLICAOF|slaveof|SLAVEOF",
        ),
    ),
    ("dropdb dropuser pg_dropcluster pg_resetwal mysql_install_db", _DROPS, ("*",)),
    ("etcdctl", _DROPS, ("del --prefix|--from-key", "rm --recursive|-r", "rmdir", "member remove")),
    ("rabbitmqctl", _DROPS, ("reset|force_reset|delete_vhost|delete_queue|purge_queue|stop|stop_app|delete_user",)),
    ("rabbitmqadmin", _DROPS, ("delete|purge",)),
    ("kafka-topics kafka-topics.sh", _DROPS, ("--delete",)),
    ("kafka-delete-records kafka-delete-records.sh", _DROPS, ("*",)),
    ("nodetool", _DROPS, ("decommission|drain|removenode|stopdaemon|assassinate|clearsnapshot",)),
    ("rails rake bin/rails", _DROPS, ("db:drop*|db:reset|db:schema:load|db:migrate:reset|db:purge|db:truncate_all",)),
    ("manage.py django-admin", _DROPS, ("flush|reset_db|sqlflush",)),
    ("python python3", _DROPS, ("manage.py|./manage.py flush|reset_db",)),
    (
        "php",
        _DROPS,
        ("artisan migrate:fresh|migrate:reset|db:wipe|migrate:refresh", "bin/console --force doctrine:*:drop"),
    ),
    ("artisan", _DROPS, ("migrate:fresh|migrate:reset|db:wipe|migrate:refresh",)),
    (
        "npx pnpm yarn prisma",
        _DROPS,
        ("prisma reset", "migrate reset", "--force-reset", "typeorm schema:drop", "sequelize db:drop"),
    ),
    (
        "sequelize sequelize-cli typeorm knex",
        _DROPS,
        ("db:drop|schema:drop|db:migrate:undo:all", "migrate:rollback --all"),
    ),
    ("npx pnpm yarn", _DROPS, ("sequelize-cli|sequelize db:drop", "knex migrate:rollback --all")),
    (
        "console symfony",
        _DROPS,
        ("doctrine:database:drop|doctrine:schema:drop|doctrine:mongodb:schema:drop --force|-f",),
    ),
    ("alembic", _DROPS, ("downgrade base",)),
    ("flyway", _DROPS, ("clean",)),
    ("liquibase", _DROPS, ("drop-all|dropAll",)),
    ("kafka-consumer-groups kafka-consumer-groups.sh", _DROPS, ("--delete --all-groups",)),
    ("mix", _DROPS, ("ecto.drop|ecto.reset",)),
    ("influx", _DROPS, ("delete --bucket", "bucket delete", "org delete")),
    ("ldapdelete", _DROPS, ("-r|-Mr",)),
    ("wp", _DROPS, ("db reset|drop|clean", "site empty|delete")),
    ("drush", _DROPS, ("sql-drop|sql:drop|site-install",)),
    ("memcflush", _DROPS, ("",)),
)
_RULES = table(_ROWS)


@judges(*_RULES)
def drops_by_words(command: Command) -> Finding | None:
    if not command.arguments and command.name != "memcflush":
        return None
    return by_words(command, _RULES)


_NAME = r"[\w.`\"\[\]$-]+"
_SQL = re.compile(
    r"\b(?:drop\s+(?:database|schema|table|keyspace|user|owned|role|tablespace|view|collection|measurement|retention|index|cluster"
    r"|continuous|series|shard|materialized)\b|truncate\s+(?:table\s+)?(?:only\s+)?[\w.`\"]+|reset\s+master\b|purge\s+binary\b"
    r"|delete\s+from\s+mysql\.user\b|drop_chunks\b|alter\s+table\s+[\w.`\"]{1,99}\s+drop\s+column\b|pg_terminate_backend\s*\(\s*pid\s*\)\s+from\s+pg_stat_activity\s*(?:;|$))",
    re.IGNORECASE,
)
# A view, an index and the like are made again in a moment: only their mass removal matters.
_SMALL = re.compile(r"\bdrop\s+(?:view|index|materialized)\b", re.IGNORECASE)
_WHOLE = re.compile(
    rf"\b(?:delete\s+from\s+(?:only\s+)?{_NAME}|update\s+{_NAME}\s+set\b(?!\s+transaction))(?P<rest>[^;]*)",
    re.IGNORECASE,
)
_STOPS = re.compile(r"(?:\A|[;\n])[ \t]*shutdown(?:\s+(?:abort|immediate|normal))?\s*(?:;|\Z)", re.IGNORECASE)
_WHERE = re.compile(r"\b(?:where|using|limit|join)\b(?P<condition>.*)", re.IGNORECASE | re.DOTALL)
_ALWAYS = re.compile(r"\s*\(?\s*(?:true|1(?:\s*=\s*1)?|'[^']*'\s*=\s*'[^']*')\s*\)?\s*\Z", re.IGNORECASE)
_SQL_TEXT = re.compile(r"(?P<text>'[^']*')|--[^\n]*|/\*(?!!).*?\*/|(?m:^)#[^\n]*", re.DOTALL)
_DYNAMIC = re.compile(r"\bexecute\s+(?:immediate\s+)?'", re.IGNORECASE)
_MONGO = re.compile(
    r"\bdropDatabase\s*[(:]|\.drop(?:Indexes|Users|Roles)?\s*\(|\.(?:deleteMany|remove|deleteOne)\s*\(\s*(?:\{\s*\})?\s*[,)]|\bshutdownServer\s*\("
    r"|dropAllUsers|dropUser\s*\("
)
_REDIS = re.compile(
    r"^\s*(?:flush_all|flushall|flushdb|shutdown|config\s+set\s+(?:dir|dbfilename))\b", re.IGNORECASE | re.MULTILINE
)
_CLIENTS = (
    "mysql mariadb psql pgcli mycli usql cqlsh sqlite3 sqlite sqlite3-cli mongo mongosh clickhouse-client clickhouse sqlcmd sqlplus "
    "influx cockroach duckdb isql tsql bteq snowsql trino presto hive beeline osql vsql ysqlsh litecli"
).split()


@judges(*_CLIENTS)
def drops_data(command: Command) -> Finding | None:
    """Statements on the command line and on stdin; what stands in an SQL string or comment does nothing."""
    options = parse(
        command.arguments,
        short="echuPDdUfqQvE",
        long=("execute", "command", "eval", "query", "statement", "host", "user", "port"),
    )
    text = ";\n".join([*options.values.values(), *options.operands, command.stdin])
    found = _MONGO.search(text) if command.name.startswith("mongo") else _destroys(text)
    return Finding(*_DROPS, command.argv) if found else None


@judges("redis-cli", "valkey-cli", "keydb-cli", "nc", "ncat", "netcat", "socat", "telnet")
def flushes(command: Command) -> Finding | None:
    """Caches are emptied by a line on stdin, from Lua, or through a bare connection."""
    scripted = any(re.search(r"\bflush(?:all|db)\b", word, re.IGNORECASE) for word in command.arguments)
    return Finding(*_DROPS, command.argv) if scripted or _REDIS.search(command.stdin) else None


def _destroys(text: str) -> bool:
    """Does SQL drop or empty something, or change every row of a table?"""
    if _DYNAMIC.search(text):
        text = text.replace("'", " ")
    code = _SQL_TEXT.sub(lambda match: "''" if match["text"] else " ", text)
    if _SQL.search(_SMALL.sub("", code)) or _STOPS.search(code):
        return True
    for match in _WHOLE.finditer(code):
        where = _WHERE.search(match["rest"])
        if where is None or _ALWAYS.match(where["condition"].rstrip("; \n")):
            return True
    return False
