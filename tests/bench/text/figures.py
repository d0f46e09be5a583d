"""Figures of this benchmark: a JSON line each as they are measured, and a table of all at the end."""
import json
import os

_lines = []


def report(metric, value, unit, peer=None, peer_value=None, ratio=None, bar=None, good=None):
    """`ratio` is ours beside the peer's or beside a stated limit, `bar` what it has to reach. A figure
    without a bar is for reading alone."""
    good = good if good is not None else (bar is None or ratio >= bar)
    line = {"bench": "text", "metric": metric, "value": round(value, 4), "unit": unit, "peer": peer,
            "peer_value": None if peer_value is None else round(peer_value, 4),
            "ratio": None if ratio is None else round(ratio, 2), "bar": bar, "ok": good}
    _lines.append(line)
    print(json.dumps(line), flush=True)


def table():
    """Prints the table; the number of figures below their bar."""
    def cell(value):
        return "" if value is None else str(value)

    head = ["metric", "value", "unit", "peer", "peer_value", "ratio", "bar", "ok"]
    rows = [head] + [[cell(line[k]) for k in head] for line in _lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    print("\nload %s" % " ".join("%.2f" % x for x in os.getloadavg()))
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip())
    return sum(not line["ok"] for line in _lines)
