"use strict";
(() => {
  const boards = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const chosen = {
    suite: at("choose-suite"),
    upgrade: at("choose-upgrade"),
    shots: at("choose-shots"),
  };
  const heads = [...document.querySelectorAll("#board thead th")];
  const body = document.querySelector("#board tbody");
  const sorting = { column: 0, down: false };

  // Each choice offers what the choices before it leave; a choice that still exists is kept.
  function offer() {
    let left = boards;
    for (const [name, select] of Object.entries(chosen)) {
      const wanted = select.value;
      const values = [...new Set(left.map((board) => board[name]))];
      select.replaceChildren(...values.map((value) => new Option(value, value)));
      select.value = values.includes(wanted) ? wanted : values[0];
      left = left.filter((board) => board[name] === select.value);
    }
    return left[0];
  }

  // What has no figure is last, whichever way the rest goes; equals stay in the order of ranks.
  function compare(a, b) {
    const [x, y] = [a, b].map(({ cells }) => cells[sorting.column][1]);
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y, "en") : x - y;
    return (sorting.down ? -order : order) || a.cells[0][1] - b.cells[0][1];
  }

  function element(name, ...children) {
    const made = document.createElement(name);
    made.append(...children);
    return made;
  }

  function draw(row) {
    const line = element("tr");
    line.className = row.kind;
    row.cells.forEach(([text], column) => {
      if (column !== 1) return line.append(element("td", text));
      const head = element("th", text);
      head.scope = "row";
      if (row.paper) {
        const link = element("a", text);
        link.href = "https://arxiv.org/abs/" + row.paper;
        link.rel = "noopener";
        head.replaceChildren(link);
      }
      line.append(head);
    });
    return line;
  }

  function show() {
    const board = offer();
    const query = at("choose-query").value.trim().toLowerCase();
    const kind = at("choose-kind").value;
    const rows = board.rows.filter(
      (row) => row.cells[1][0].toLowerCase().includes(query) && (!kind || row.kind === kind),
    );
    body.replaceChildren(...rows.sort(compare).map(draw));
    heads.forEach((head, column) => {
      const way = sorting.down ? "descending" : "ascending";
      head.setAttribute("aria-sort", column === sorting.column ? way : "none");
    });
    const shots = `${board.shots} shot${board.shots === "1" ? "" : "s"}`;
    at("board-caption").textContent = `${board.suite}: ${board.upgrade}, ${shots}`;
    at("board-status").textContent = `${rows.length} of ${board.rows.length} methods`;
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    button.addEventListener("click", () => {
      const again = sorting.column === column;
      sorting.down = again ? !sorting.down : button.dataset.descending === "true";
      sorting.column = column;
      show();
    });
  });
  const form = document.querySelector(".controls");
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();

  // Fingers cannot hover: a tap on a mark writes its title below the figure.
  for (const plot of document.querySelectorAll(".plot")) {
    const readout = plot.closest("figure").querySelector(".readout");
    const tell = (event) => {
      const mark = event.target.closest(".hover");
      if (mark) readout.textContent = mark.querySelector("title").textContent;
    };
    plot.addEventListener("click", tell);
    plot.addEventListener("pointerover", tell);
  }
})();
