"""Which source column feeds which field of a log: named by the caller, or guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

# Names that a field's column often bears, in order of preference.
GUESSES: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "user", "userid", "uid", "user_idx", "reviewerid", "visitorid", "session_id", "sessionid"),
    "item": ("item_id", "item", "itemid", "iid", "item_idx", "movie_id", "movieid", "product_id", "asin", "sid"),
    # Finer ones first: where a log has a date as well as a time, the date is the day alone.
    "time": (
        *("timestamp", "time_ms", "timestamp_ms", "time", "ts", "datetime", "event_time", "event_timestamp"),
        *("time_stamp", "unixreviewtime", "unix_time", "created_at", "date", "order"),
    ),
    "category": ("category", "category_id", "cat_id", "cate_id", "cate", "categoryid"),
    "label": ("label", "click", "clicked", "is_click", "clk"),
    "session": ("session_id", "session", "sessionid"),
}
_REQUIRED = ("user", "item", "time")
FIELDS = tuple(GUESSES)
#: Fields that a log may lack.
OPTIONAL = tuple(field for field in FIELDS if field not in _REQUIRED)

Wanted = Mapping[str, "str | Literal[False] | None"]


class Columns(NamedTuple):
    """Column by field, and the fields whose column was guessed."""

    by_field: dict[str, str]
    guessed: tuple[str, ...]

    def without(self, field: str) -> Columns:
        """The columns of the other fields."""
        others = {f: column for f, column in self.by_field.items() if f != field}
        return Columns(others, tuple(f for f in self.guessed if f != field))


def resolve_columns(
    available: Sequence[str], wanted: Wanted, source: str, *, required: Sequence[str] = _REQUIRED, hint: str = ""
) -> Columns:
    """Which source column feeds which field.

    Args:
        available: columns of the source.
        wanted: column by field; None asks for a guess, False leaves an optional field out.
        source: what has the columns, for messages.
        required: fields that must have a column.
        hint: appended to the message about a column that cannot be guessed.

    Raises:
        ValueError: a named column is missing, a required one cannot be guessed, or one column
            would feed two fields; the message lists the columns found.
    """
    listing = f"{source} has the columns: {list_names(available)}"
    chosen: dict[str, str] = {}
    guessed = []
    for field, given in wanted.items():
        if given is False:
            continue
        if given is not None:
            if given not in available:
                raise ValueError(f"no column {given!r} (given as the {field} column); {listing}")
            chosen[field] = given
            continue
        guess = next(iter(guesses_among(available, field)), None)
        if guess is not None and guess not in (*wanted.values(), *chosen.values()):
            chosen[field] = guess
            guessed.append(field)
        elif field in required:
            raise ValueError(
                f"cannot guess the {field} column: pass {field}=<column name>, or --{field}-column "
                f"(known names: {', '.join(GUESSES[field])}); {listing}{hint}"
            )
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"one column cannot feed two fields: {chosen}; {listing}")
    doubled = sorted({c for c in chosen.values() if list(available).count(c) > 1})
    if doubled:
        raise ValueError(f"column name {doubled[0]!r} occurs more than once; {listing}")
    return Columns(chosen, tuple(guessed))


def guesses_among(available: Sequence[str], field: str) -> list[str]:
    """Columns that bear a name known of a field, the likeliest first."""
    return named_like(available, GUESSES[field])


def named_like(available: Sequence[str], known: Sequence[str]) -> list[str]:
    """Columns that bear one of the known names, in the order of these; case and "-" do not matter."""
    plain = {str(column).lower().replace("-", "_"): column for column in reversed(available)}
    return [plain[name] for name in known if name in plain]


def printable(text: str, limit: int = 300) -> str:
    """Foreign text on one line: line ends as blanks, what cannot be shown (tabs too) escaped, at most ``limit``."""
    text = " ".join(text.splitlines())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def list_names(names: Sequence[str]) -> str:
    """Column names for a message, the first 40 of them."""
    plain = (printable(str(name), 60) for name in names[:40])
    # Quotes show blanks at the ends.
    shown = ", ".join(f"'{name}'" if name != name.strip() else name for name in plain)
    return (shown + (", ..." if len(names) > 40 else "")) or "(none)"


def describe_columns(columns: Mapping[str, str], guessed: Sequence[str], remarks: Mapping[str, str]) -> str:
    """One line for people: "user 'uid' (guessed), item 'movie', history 'movie_his' (ids joined by '^')"."""

    def one(field: str) -> str:
        notes = ", ".join(note for note in ("guessed" if field in guessed else "", remarks.get(field)) if note)
        return f"{field} {columns[field]!r}" + (f" ({notes})" if notes else "")

    return ", ".join(map(one, columns))


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether a header line holds a number, as a first line of data does and names do not."""

    def number(text: Any) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    return any(number(name) for name in names)
