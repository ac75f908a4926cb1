"""Reads the results of a sweep with the libraries that people use: `read_sweep.py NAME.parquet NAME.csv`.

The same rows in Parquet and in CSV, columns of the types that they should have, and a question in SQL.
"""

import math
import sys

import duckdb
import pandas
import polars

parquet, csv = sys.argv[1:]
frame, text = pandas.read_parquet(parquet), pandas.read_csv(csv, float_precision="round_trip")
assert list(frame.columns) == list(text.columns) and len(frame) == len(text) > 0
for name in frame.columns:
    for a, b in zip(frame[name], text[name]):
        nothing = [x is None or (isinstance(x, float) and math.isnan(x)) for x in (a, b)]
        assert all(nothing) or (not any(nothing) and a == b), (name, a, b)
assert frame["token_time_us"].dtype == "float64" and set(frame["pareto"]) == {True, False}

lazy = polars.read_parquet(parquet)
assert lazy.schema["command"] == polars.String and lazy.schema["stall_rate"] == polars.Float64
assert lazy.schema["pareto"] == polars.Boolean and lazy.height == len(frame)
assert lazy["token_time_us"].to_list() == [None if math.isnan(time) else time for time in frame["token_time_us"]]

best = "SELECT command, token_time_us FROM '{}' WHERE refusal IS NULL ORDER BY token_time_us, command LIMIT 1"
rows = [duckdb.sql(best.format(name)).fetchone() for name in (parquet, csv)]
assert rows[0] == rows[1] and rows[0][1] == frame["token_time_us"].min()
print(f"{len(frame)} rows: pandas {pandas.__version__}, polars {polars.__version__}, duckdb {duckdb.__version__}")
