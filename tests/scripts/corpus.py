"""Writes `sqllogictest/slt/postgres`: every expected result is what PostgreSQL answers.

usage: corpus.py            writes all files anew
       corpus.py --check    writes nothing; exits with 1 if a file is not what would be written

The topics are in the folder `corpus` beside this script. PostgreSQL is started by `postgres.sh`.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "corpus")]
TARGET = HERE.parent.parent / "sqllogictest" / "slt" / "postgres"

import aggregates  # noqa: E402
import changes  # noqa: E402
import functions  # noqa: E402
import joins  # noqa: E402
import queries  # noqa: E402
import sets  # noqa: E402
import windows  # noqa: E402
from base import written  # noqa: E402
from pgwire import Connection, SqlError  # noqa: E402


def main():
    check = "--check" in sys.argv[1:]
    folder, port = tempfile.mkdtemp(prefix="millstream-postgres-"), random.randint(20000, 32000)
    script = str(HERE / "postgres.sh")
    subprocess.run([script, "start", folder, str(port), str(os.getpid())], check=True)
    server = Connection(port)
    problems, made, records = [], set(), 0
    try:
        for module in (functions, joins, sets, aggregates, windows, queries, changes):
            for topic in module.topics():
                # A schema a file: names need not differ between files.
                server.query("DROP SCHEMA IF EXISTS corpus CASCADE; CREATE SCHEMA corpus; SET search_path = corpus")

                def ask(sql):
                    try:
                        return server.query(sql)
                    except SqlError as e:
                        return e.code

                try:
                    text = written(topic, ask)
                except SystemExit as e:
                    problems.append(str(e))
                    continue
                path = TARGET / f"{topic.path}.slt"
                if path in made:
                    problems.append(f"{topic.path}: two topics of one name")
                made.add(path)
                records += len(topic.steps)
                if not check:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
                elif not path.is_file() or path.read_text() != text:
                    problems.append(f"{topic.path}: not what is checked in")
        for path in TARGET.rglob("*.slt"):
            if path not in made and not problems:
                problems.append(f"{path.name}: no topic writes it") if check else path.unlink()
    finally:
        subprocess.run([script, "stop", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(made)} files, {records} records")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
