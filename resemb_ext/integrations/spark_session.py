"""The Spark session that a graph is built in, and what goes wrong with one in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

LEAST_JAVA = 17  # of Spark 4

# Spark's own log would fill the terminal with what it does; errors of jobs come as exceptions. Under another level of the
# root, Spark says that it sets one.
_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %p %c{1}: %m%n%ex
appender.stderr.filter.threshold.type = ThresholdFilter
appender.stderr.filter.threshold.level = fatal
"""


def check_java() -> None:
    """Whether the Java that Spark would start is there and new enough.

    Raises:
        FileNotFoundError: no Java.
        OSError: one that is too old, or does not start.
    """
    wanted = f"Spark needs Java {LEAST_JAVA} or later"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java" if not home else str(Path(home, "bin", "java")))
    if java is None:
        where = f"in JAVA_HOME, {home}" if home else "on PATH"
        raise FileNotFoundError(f"{wanted}, found none {where}: install it, or set JAVA_HOME to one")
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OSError(f"{wanted}, and {java} does not start: {error}") from None
    found = re.search(r'version "([^"]*)"', done.stdout + done.stderr)
    if done.returncode or found is None:
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise OSError(f"{wanted}, and {java} -version fails: {said or f'status {done.returncode}'}")
    numbers = re.findall(r"\d+", found[1])
    major = int(numbers[1] if numbers[:1] == ["1"] and len(numbers) > 1 else numbers[0]) if numbers else 0
    if major < LEAST_JAVA:  # 8 and older call themselves 1.8
        raise OSError(f"{wanted}, found {found[1]} at {java}: install a newer one, or set JAVA_HOME to it")


@contextmanager
def session(
    master: str | None = None,
    memory: int | None = None,
    config: Mapping[str, str] | None = None,
    *,
    given: SparkSession | None = None,
) -> Iterator[SparkSession]:
    """A context that has the session given, the active one of this process, or a new one, which it stops at its end.

    What Spark raises inside comes as an OSError of one line.

    Args:
        master, memory, config: of a new one, as of ``rx.spark.interest_graph``, which documents them.
        given: a running session, or None.

    Raises:
        ValueError: options of a new one beside one that runs already; more memory than the Java of an earlier one has.
        FileNotFoundError: no Java.
        OSError: a Java that is too old; Spark does not start.
    """
    # PySpark warns of pandas 3 wherever Arrow is used; no pandas is used here.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        with _session(master, memory, config, given) as found, one_line():
            yield found


@contextmanager
def _session(
    master: str | None, memory: int | None, config: Mapping[str, str] | None, given: SparkSession | None
) -> Iterator[SparkSession]:
    running = given or SparkSession.getActiveSession()
    if running is not None:
        for name, value in (("master", master), ("memory", memory), ("config", config)):
            if value is not None:
                raise ValueError(
                    f"{name} is {value!r}, but a Spark session runs already, and takes no options of a new one;"
                    f" stop it, or leave {name} out"
                )
        yield running
        return
    check_java()
    with tempfile.TemporaryDirectory(prefix="resemb-spark-", ignore_cleanup_errors=True) as folder:
        started = _start(Path(folder), master or "local[*]", memory, config or {})
        try:
            if memory is not None:
                _check_heap(started, memory)
            yield started
        finally:
            started.stop()


def _start(folder: Path, master: str, memory: int | None, config: Mapping[str, str]) -> SparkSession:
    logging = folder / "log4j2.properties"
    logging.write_text(_LOGGING, encoding="utf-8")
    options = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.driver.defaultJavaOptions": f"-Dlog4j2.configurationFile={logging.as_uri()}",
    }
    if master.startswith("local"):
        options["spark.local.dir"] = str(folder / "work")
        options["spark.driver.memory"] = f"{max((memory or _half_of_memory()) >> 20, 512)}m"
        options["spark.driver.host"] = options["spark.driver.bindAddress"] = "127.0.0.1"
    elif memory is not None:
        raise ValueError(
            f"memory is {memory}, but it is that of an embedded Spark (local), and master is {master!r}; give its"
            ' executors theirs by config={"spark.executor.memory": ...}'
        )
    builder = SparkSession.builder.appName("resemb_ext").master(master)
    for name, value in {**options, **config}.items():
        builder = builder.config(name, value)
    with one_line(f"Spark does not start with master {master!r}"):
        return builder.getOrCreate()


def _check_heap(running: SparkSession, memory: int) -> None:
    """ValueError where Java has a smaller heap: a stopped session leaves it running, with the heap that it had."""
    heap = running.sparkContext._jvm.java.lang.Runtime.getRuntime().maxMemory()  # type: ignore[union-attr]
    if heap < memory * 0.85:  # some collectors leave a part out
        raise ValueError(
            f"memory is {memory:,}, but the Java of an earlier session of this process runs on, with a heap of {heap:,}"
            " bytes; give the first session that memory, or start another process"
        )


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@contextmanager
def one_line(what: str = "Spark") -> Iterator[None]:
    """What Spark raises as an OSError of one line that begins so: its own traces fill pages."""
    from py4j.protocol import Py4JError

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise OSError(f"{what}: {_cause(error)}") from error
    except RuntimeError as error:  # PySpark's, of a Java that ended as it started
        if "Java gateway" not in str(error):
            raise
        raise OSError(f"{what}: {error}") from error


def _cause(error: Exception) -> str:
    """The first line of the innermost cause that a Java exception names."""
    java: Any = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    text = str(error)
    if java is not None:
        while java.getCause() is not None:
            java = java.getCause()
        text = str(java.toString())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
