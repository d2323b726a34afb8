"""One Spark session for all tests, in this process, small."""

import pytest


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    import resemb_ext as rx

    config = {
        "spark.sql.shuffle.partitions": "4",
        "spark.default.parallelism": "2",
        # Small data in many plans: to compile each takes longer than to run it.
        "spark.sql.codegen.wholeStage": "false",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.session.timeZone": "America/New_York",  # must not move times
        "spark.local.dir": str(tmp_path_factory.mktemp("spark")),
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", "/no/python")  # executors run none
        with rx.spark.session("local[2]", 700 << 20, config) as running:
            yield running
