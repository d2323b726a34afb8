"""From counted pairs to rows of a graph: weights, the heaviest of a row, its own entry and its degree."""

from __future__ import annotations

from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from .spark_events import Events


def rows_of(counted: DataFrame, events: Events, native: dict[str, Any], parts: int) -> DataFrame:
    """Columns "part", "item", "neighbors", "weights" and "degree", a row for every item.

    Args:
        counted: of ``spark_histories.counted``.
        native: options as ``Options.native`` gives them.
        parts: "part" is the item modulo this.
    """
    weighed = _weighed(counted, events, native).select("left", "right", "weight")
    if native["directed"]:
        sided = weighed.withColumnsRenamed({"left": "item", "right": "other"})
    else:
        ends = weighed.select("*", F.col("left").alias("a"), F.col("right").alias("b"))
        sided = ends.unpivot(["left", "right", "weight"], ["a", "b"], "side", "item").select(
            "item", F.when(F.col("side") == "a", F.col("right")).otherwise(F.col("left")).alias("other"), "weight"
        )
    # An item's own entry has no weight yet: so it comes last in its row, and every item has one.
    items = counted.sparkSession.range(native["num_items"]).select(F.col("id").cast("int").alias("item"))
    own = items.select("item", F.col("item").alias("other"), F.lit(None).cast("float").alias("weight"))
    entries = sided.unionByName(own).withColumn("part", F.col("item") % parts).repartition("part")
    # By item first: Spark sorts by the first column alone as fast as by one number.
    heaviest = Window.partitionBy("item", "part").orderBy(F.col("weight").desc_nulls_last(), "other")
    so_far = heaviest.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    if native["self_weight"] is not None:
        self_weight = F.lit(float(native["self_weight"])).cast("float")
    elif native["top_k"]:
        self_weight = F.coalesce(F.first("weight").over(so_far), F.lit(1.0).cast("float"))
    else:
        self_weight = F.lit(1.0).cast("float")
    is_own = F.col("weight").isNull()
    ranked = entries.select(
        "*",
        F.row_number().over(heaviest).alias("rank"),
        F.when(is_own, self_weight).alias("self"),
        F.sum(F.col("weight").cast("double")).over(so_far).alias("total"),
    )
    kept = (F.col("rank") <= native["top_k"]) | is_own
    entry = F.struct("other", F.coalesce("weight", "self").alias("weight"))
    if native["weighting"] == "count" and not native["damping"]:
        rows = (
            ranked.where(kept)
            .groupBy("item", "part")
            .agg(
                F.max(F.when(is_own, F.coalesce("total", F.lit(0.0)))).alias("total"),
                F.max("self").alias("self"),
                F.sort_array(F.collect_list(entry)).alias("entries"),
            )
        )
    else:
        rows = _with_bins(ranked.drop("total"), F.when(kept, entry))
    padding = F.col("item") == native["padding"]
    return rows.select(
        "part",
        "item",
        F.when(padding, F.array().cast("array<int>")).otherwise(F.col("entries.other")).alias("neighbors"),
        F.when(padding, F.array().cast("array<float>")).otherwise(F.col("entries.weight")).alias("weights"),
        F.when(padding, F.lit(0.0)).otherwise(F.col("self").cast("double") + F.col("total")).alias("degree"),
    )


def _with_bins(ranked: DataFrame, kept: Column) -> DataFrame:
    """Columns "item", "part", "entries" by id, "self" and "total", the sum of all weights, in double.

    Whole numbers, and multiples of 2^-16, add up exactly in any order. Other weights are added here as the C++ builder
    does: of each power of two exactly, as integers, and then from the smallest power to the largest.
    """
    weight = F.col("weight").cast("double")
    # 1e-9 lifts a logarithm that rounding left below a whole number, and none of a smaller float32.
    power = F.greatest(F.floor(F.log2(weight) + 1e-9) + 127, F.lit(0))
    ranked = ranked.withColumn("power", F.coalesce(power, F.lit(-1)).cast("int"))
    mantissa = (weight * F.pow(F.lit(2.0), (150 - F.col("power")).cast("double"))).cast("bigint")
    bins = ranked.groupBy("item", "part", "power").agg(
        F.coalesce(F.sum(mantissa), F.lit(0)).alias("mantissas"),
        F.max("self").alias("self"),
        F.collect_list(kept).alias("entries"),
    )
    rows = bins.groupBy("item", "part").agg(
        F.sort_array(F.collect_list(F.struct("power", "mantissas"))).alias("bins"),
        F.max("self").alias("self"),
        F.sort_array(F.flatten(F.collect_list("entries"))).alias("entries"),
    )
    return rows.withColumn("total", F.aggregate("bins", F.lit(0.0), _add_bin))


def _add_bin(total: Column, bin_: Column) -> Column:
    unit = F.pow(F.lit(2.0), (bin_["power"] - 150).cast("double"))  # exact, as of all whole powers in Java
    return total + bin_["mantissas"].cast("double") * unit


def _weighed(counted: DataFrame, events: Events, native: dict[str, Any]) -> DataFrame:
    """With float "weight", above 0, in the steps of the C++ builder; pairs of too small a mass are left out."""
    enough = counted.where(F.col("mass") >= native["min_mass"])
    weighting, damping = native["weighting"], native["damping"]
    if weighting == "count" and native["unit"] == 1 and not damping:
        return enough.withColumn("weight", F.col("mass").cast("float"))
    mass = F.col("mass").cast("double")
    weight = mass / F.lit(float(native["unit"]))
    if weighting == "cosine" or damping:
        seen = events.frame.groupBy("item").agg(F.count(F.lit(1)).cast("double").alias("events"))
        enough = _of_both(enough, seen, "events")
    if weighting == "cosine":
        weight = weight / F.sqrt(F.col("left_events") * F.col("right_events"))
    elif weighting in ("jaccard", "ppmi"):
        enough = _with_margins(enough, counted, native["directed"])
        row, column = F.col("left_row"), F.col("right_column")
        if weighting == "jaccard":
            weight = mass / (row + column - F.col("mass")).cast("double")
        else:
            all_pairs = F.col("all_pairs").cast("double")
            ratio = mass * all_pairs / (row.cast("double") * column.cast("double"))
            weight = F.greatest(F.lit(0.0), F.log(ratio))
    if damping:
        left, right = (F.pow(F.col(f"{side}_events"), F.lit(-float(damping))) for side in ("left", "right"))
        weight = weight * (left * right)
    # What rounds to 0 is no edge.
    return enough.withColumn("weight", weight.cast("float")).where(F.col("weight") > 0)


def _of_both(pairs: DataFrame, figures: DataFrame, name: str) -> DataFrame:
    """A figure of items, beside the pairs as "left_NAME" and "right_NAME"."""
    for side in ("left", "right"):
        pairs = pairs.join(figures.select(F.col("item").alias(side), F.col(name).alias(f"{side}_{name}")), side)
    return pairs


def _with_margins(pairs: DataFrame, counted: DataFrame, directed: bool) -> DataFrame:
    """With "left_row", "right_column" and "all_pairs": the masses of all pairs in a row, in a column, and in all."""
    if directed:
        rows = counted.groupBy(F.col("left").alias("item")).agg(F.sum("mass").alias("row"))
        columns = counted.groupBy(F.col("right").alias("item")).agg(F.sum("mass").alias("column"))
    else:
        ends = counted.unpivot(["mass"], ["left", "right"], "side", "item")
        rows = ends.groupBy("item").agg(F.sum("mass").alias("row"))
        columns = rows.withColumnRenamed("row", "column")
    whole = rows.agg(F.sum("row").alias("all_pairs"))
    return (
        pairs.join(rows.withColumnsRenamed({"item": "left", "row": "left_row"}), "left")
        .join(columns.withColumnsRenamed({"item": "right", "column": "right_column"}), "right")
        .crossJoin(F.broadcast(whole))
    )
