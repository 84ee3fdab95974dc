#!/usr/bin/env python3
"""Records a real `sealane demo --once`: rollout.cast (asciicast v2, for `asciinema play`) and rollout.svg (animated, for the README).

  docs/media/record.py target/release/sealane
"""

import json
import os
import pathlib
import pty
import re
import select
import struct
import sys
import termios
import time
from fcntl import ioctl
from html import escape

COLUMNS, ROWS = 110, 32
HERE = pathlib.Path(__file__).resolve().parent
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "2": "#8b949e"}
LINE, LETTER = 18, 7.8


def play(program: str):
    """What the program writes to a terminal, with times in seconds."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(program, ["sealane", "demo", "--once"])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start, events = time.monotonic(), []
    while True:
        select.select([terminal], [], [])
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b""
        if not data:
            break
        events.append((time.monotonic() - start, data))
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        sys.exit("the demo did not end well")
    return events


def screens(events):
    """The lines after each event: enough of a terminal for what the program writes."""
    lines, column, colour, rest = [[]], 0, "", ""
    for at, data in events:
        text = rest + data.decode("utf-8", "replace")
        rest = ""
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n|\r", text):
            if token.startswith("\x1b"):
                if token.endswith("K"):
                    lines[-1] = []
                elif token.endswith("m"):
                    colour = COLOURS.get(token[2:-1], "")
            elif token == "\r":
                column = 0
            elif token == "\n":
                lines.append([])
                column = 0
            else:
                if column >= COLUMNS:
                    lines.append([])
                    column = 0
                row = lines[-1]
                row.extend([(" ", "")] * (column + 1 - len(row)))
                row[column] = (token, colour)
                column += 1
        yield at, [list(row) for row in lines]


def words(row) -> str:
    return "".join(letter for letter, _ in row).rstrip()


def markup(row) -> str:
    out, last = "", None
    for letter, colour in row:
        if colour != last:
            out += "</tspan>" * (last is not None) + (f'<tspan fill="{colour}">' if colour else "<tspan>")
            last = colour
        out += escape(letter)
    return (out + "</tspan>" * (last is not None)).rstrip()


def picture(frames) -> str:
    """One text for each state of each row, shown from when it came until it went."""
    end = frames[-1][0] + 6
    # States of a row: (from, to, row). A spinner's turn is no new state.
    states, shown = [], {}
    for at, rows in frames:
        for index, row in enumerate(rows):
            key = re.sub(r"^[\u2800-\u28ff] |\s+\d+s$", "", words(row))
            if index in shown and shown[index][1] == key:
                continue
            if index in shown:
                states.append((shown[index][0], at, index, shown[index][2]))
            shown[index] = (at, key, row)
    states += [(at, end, index, row) for index, (at, _, row) in shown.items()]
    count = max(index for _, _, index, _ in states) + 1
    width, height = round(COLUMNS * LETTER + 24), count * LINE + 24
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="ui-monospace,Menlo,Consolas,monospace" '
             f'font-size="13" fill="#e6edf3"><title>A good change completes, a bad one comes back by itself: sealane demo --once</title>'
             f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>']
    for begin, until, index, row in sorted(states, key=lambda state: (state[2], state[0])):
        if not words(row):
            continue
        times = f"0;{begin / end:.4f};{min(until / end, 1):.4f}"
        values = "none;inline;none" if until < end else "none;inline;inline"
        parts.append(f'<text x="12" y="{24 + index * LINE}" xml:space="preserve" display="none">{markup(row)}'
                     f'<animate attributeName="display" calcMode="discrete" dur="{end:.1f}s" repeatCount="indefinite" '
                     f'keyTimes="{times}" values="{values}"/></text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    events = play(sys.argv[1])
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "sealane demo --once"}
    lines = [json.dumps(head)]
    # Turns of the spinner that nobody misses are left out.
    last = -1.0
    kept = []
    for at, data in events:
        if b"\n" not in data and at - last < 0.4 and data.count(b"\x1b[2K") == 1 and len(kept) > 0:
            continue
        kept.append((at, data))
        last = at
    lines += [json.dumps([round(at, 3), "o", data.decode("utf-8", "replace")], ensure_ascii=False) for at, data in kept]
    (HERE / "rollout.cast").write_text("\n".join(lines) + "\n")
    (HERE / "rollout.svg").write_text(picture(list(screens(events))))


if __name__ == "__main__":
    main()
