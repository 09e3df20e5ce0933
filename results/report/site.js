"use strict";
// The site: one suite at a time, from data/<suite>.js. The part of the address after "#" holds
// everything that a reader has chosen, so that a view can be shared. This script searches, sorts and
// filters what it is given. It judges nothing: ranks, verdicts and capabilities come with the data.
const compatbench = {
  // index.js, the last script, hands over the suites, columns and figures.
  set index(value) {
    start(value);
  },
  // data/<suite>.js
  set suite(value) {
    for (const board of value.boards) {
      board.rows = board.rows.map(([method, kind, track, can, cells, sets]) => ({ method, kind, track, can, cells, sets }));
    }
    compatbench.loaded = value;
  },
};

function start(index) {
  const at = (id) => document.getElementById(id);
  const FILTERS = ["track", "kind", "can", "q", "sets"];
  const CHOICES = ["suite", "upgrade", "shots", ...FILTERS];
  const OF_RANKING = [...CHOICES.filter((key) => key !== "q"), "sort", "columns"];
  const suites = new Map(); // name -> promise of its data
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const phone = matchMedia("(max-width: 40rem)");
  let suite, board, rows, state, drawn;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // ---- state: the address is the only place where it is kept

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(["view", ...CHOICES, "sort", "columns", "method"].map((key) => [key, given.get(key) ?? ""]));
  }

  function address(changes) {
    const kept = Object.entries({ ...state, ...changes }).filter(([, value]) => value);
    return "#" + new URLSearchParams(kept);
  }

  function choose(changes) {
    history.replaceState(null, "", address(changes));
    return show();
  }

  function load(name) {
    if (!suites.has(name)) {
      const loading = new Promise((resolve, reject) => {
        const script = element("script", { src: `data/${encodeURIComponent(name)}.js` });
        script.onload = () => resolve(compatbench.loaded);
        script.onerror = () => reject(new Error(`data/${name}.js cannot be read`));
        document.head.append(script);
      });
      suites.set(name, loading);
    }
    return suites.get(name);
  }

  // An address that chooses something of a ranking, and no view, is of the ranking.
  function view() {
    if (state.method) return "method";
    if (!at("survival")) return "ranking";
    if (state.view) return state.view === "ranking" ? "ranking" : "survival";
    return OF_RANKING.some((key) => state[key]) ? "ranking" : "survival";
  }

  async function show() {
    const asked = location.hash;
    state = read();
    if (view() === "survival") {
      reveal("survival");
      showSurvival();
      return;
    }
    const names = index.suites.map((one) => one.name);
    const name = names.includes(state.suite) ? state.suite : names[0];
    try {
      const loaded = await load(name);
      if (location.hash !== asked) return; // another view since
      suite = loaded;
    } catch (error) {
      at("problem").textContent = error.message;
      at("problem").hidden = false;
      return;
    }
    offer(name);
    if (suite.methods[state.method] === undefined) state.method = "";
    reveal(view());
    if (view() === "survival") showSurvival();
    else if (state.method) showMethod(state.method);
    else showAll();
  }

  function reveal(shown) {
    at("all").hidden = shown !== "ranking";
    at("method").hidden = shown !== "method";
    if (at("survival")) at("survival").hidden = shown !== "survival";
    for (const link of document.querySelectorAll("#views a")) {
      link.href = address({ view: link.dataset.view, method: "" });
      if (link.dataset.view === shown) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const all = state.columns === "all";
    for (const button of document.querySelectorAll("button.more")) {
      button.textContent = all ? "Fewer columns" : "More columns";
      button.setAttribute("aria-expanded", all);
    }
  }

  // "tip adapter" finds Tip-Adapter.
  const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}+]/gu, "");
  const found = (...texts) => texts.some((text) => plain(text).includes(plain(state.q)));

  function showSurvival() {
    document.title = "compatbench report: Does my module survive?";
    if (at("find").value !== state.q) at("find").value = state.q;
    const lines = [...at("verdicts").tBodies[0].rows];
    for (const line of lines) {
      const link = line.querySelector("a");
      link.href = address({ method: link.dataset.method });
      line.hidden = !found(line.cells[0].textContent, link.dataset.method);
    }
    const left = lines.filter((line) => !line.hidden).length;
    at("verdicts").parentElement.hidden = !left;
    const none = `No method contains “${state.q}”. It may have another name in the ranking, or not be measured yet.`;
    at("find-status").textContent = left ? `${left} of ${lines.length} modules` : none;
  }

  // Each choice offers what the choices before it leave.
  function offer(name) {
    const key = (one) => one.upgrade.join(",");
    options("suite", index.suites.map((one) => [one.name, one.title]), name);
    const upgrade = pick(suite.boards, state.upgrade, key);
    options("upgrade", suite.boards.map((one) => [key(one), one.kind || one.title]), upgrade);
    const left = suite.boards.filter((one) => key(one) === upgrade);
    const shots = pick(left, state.shots, (one) => one.shots);
    options("shots", left.map((one) => [one.shots, one.shots]), shots);
    board = left.find((one) => one.shots === shots) ?? { rows: [], figures: [], kind: "", title: "", shots: "" };
    const tracks = new Set(board.rows.map((row) => row.track).filter(Boolean));
    options("track", [["", "all"], ["-", "untouched"], ...[...tracks].map((one) => [one, one])], state.track);
    for (const key of FILTERS) {
      const control = at(`choose-${key}`);
      if (control.value !== state[key]) control.value = state[key];
      if (control.selectedIndex === -1) control.value = ""; // an address asks for what is not there
      state[key] = control.value;
    }
  }

  function pick(boards, wanted, key) {
    return boards.some((one) => key(one) === wanted) ? wanted : boards.length ? key(boards[0]) : "";
  }

  function options(key, pairs, value) {
    const unique = [...new Map(pairs)];
    at(`choose-${key}`).replaceChildren(...unique.map(([one, title]) => new Option(title, one)));
    at(`choose-${key}`).value = value;
  }

  // ---- the table

  // The first columns of the ranking or all of them, then one per task of the measure that is chosen.
  function columns() {
    // A phone has no room for the spread over seeds, nor for the transfer before a rank: its method names it, too.
    const spare = (i) => (!phone.matches || i === 1 ? /$^/ : i === 0 ? /^.* / : / ± .*$/);
    const short = ([text, value], i) => [text.replace(spare(i), ""), value];
    const all = index.columns.map((one, i) => ({ ...one, i, row: i === 1, cell: (row) => short(both(row.cells[i]), i) }));
    const fixed = all.filter(shown);
    const measure = index.measures.indexOf(state.sets);
    const sets = measure < 0 ? [] : suite.tasks.map((title, i) => ({
      title: `${title}: ${state.sets}`,
      about: `${state.sets} on ${title}`,
      down: true,
      exact: true,
      cell: ({ sets }) => [number(sets[measure][i], measure), sets[measure][i]],
    }));
    return [...fixed, ...sets];
  }

  // A column by which the table is sorted is there, too.
  function shown(column) {
    const fits = phone.matches ? column.phone : column.first;
    return fits || state.columns === "all" || column.title === state.sort.replace(/^-/, "");
  }

  // What a cell shows, and what it is sorted by.
  function both(cell) {
    return typeof cell === "string" ? [cell, cell] : cell;
  }

  const title = (row) => both(row.cells[1])[0];
  const nameOf = (one) => (one.kind ? `${one.kind}: ${one.title}` : one.title);
  const countShots = () => `${board.shots} shot${board.shots === "1" ? "" : "s"}`;

  function number(value, measure) {
    if (value === null) return "–";
    const sign = index.measures[measure] === "Gain" && value > 0 ? "+" : "";
    return sign + value.toFixed(1);
  }

  // What has no figure is last, whichever way the rest goes; equals stay in the order of ranks.
  function order(column, down) {
    return (a, b) => {
      const [x, y] = [a, b].map((row) => column.cell(row)[1]);
      if (x === null || y === null) return (x === null) - (y === null);
      const way = typeof x === "string" ? x.localeCompare(y, "en") : x - y;
      return (down ? -way : way) || a.cells[0][1] - b.cells[0][1];
    };
  }

  function sorting(all) {
    const down = state.sort.startsWith("-");
    const column = all.find((one) => one.title === state.sort.slice(down ? 1 : 0));
    return column ? { column, down } : { column: all.find((one) => one.title === "Rank") ?? all[0], down: false };
  }

  function showAll() {
    document.title = `compatbench report: ${suite.title}`;
    const all = columns();
    const { column, down } = sorting(all);
    rows = board.rows
      .filter((row) => found(title(row)))
      .filter((row) => !state.kind || row.kind === state.kind)
      .filter((row) => !state.can || row.can.includes(state.can))
      .filter((row) => !state.track || row.track === (state.track === "-" ? "" : state.track))
      .sort(order(column, down));
    const heads = all.map((one) => {
      const sorted = one === column ? (down ? "descending" : "ascending") : "none";
      const button = element("button", { type: "button", title: one.about }, one.title);
      button.addEventListener("click", () => {
        const turned = one === column ? !down : one.down;
        choose({ sort: (turned ? "-" : "") + one.title }).then(() => {
          at("board").querySelectorAll("thead button")[all.indexOf(one)].focus();
        });
      });
      return element("th", { scope: "col", "aria-sort": sorted, ...(one.text && { class: "text" }) }, button);
    });
    const none = element("tr", { class: "none" }, element("td", { colspan: all.length, class: "text" }, "No method matches these filters."));
    table(at("board"), heads, rows.length ? rows.map((row) => line(row, all)) : [none]);
    at("board").classList.toggle("fits", phone.matches && all.every((one) => one.phone));
    at("board-caption").textContent = `${suite.title}: ${nameOf(board)}, ${countShots()}`;
    at("board-status").textContent = `${rows.length} of ${board.rows.length} rows`;
    if (["track", "kind", "can", "sets"].some((key) => state[key])) at("filters").open = true;
    const [first, ...more] = suite.notes.map((text) => element("p", { class: "note" }, text));
    const rest = more.length ? [element("details", {}, element("summary", {}, "More about these results"), ...more)] : [];
    at("notes").replaceChildren(...(first ? [first, ...rest] : []));
    showFigures();
    showParts();
  }

  function table(place, heads, lines) {
    place.replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
  }

  function line(row, all) {
    const cells = all.map((one) => {
      const text = one.cell(row)[0];
      if (!one.row) return element("td", one.text ? { class: "text" } : {}, text);
      const link = element("a", { href: address({ method: row.method }) }, text);
      return element("th", { scope: "row" }, link);
    });
    return element("tr", { class: row.kind }, ...cells);
  }

  function csv() {
    const all = columns();
    const shown = (one, row) => {
      const [text, value] = one.cell(row);
      return one.exact && typeof value === "number" ? value : text;
    };
    // A text that a spreadsheet would take for a formula stands behind an apostrophe.
    const safe = (cell) => (typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell);
    const quoted = (cell) => `"${String(safe(cell)).replaceAll('"', '""')}"`;
    const fixed = { Suite: suite.title, Upgrade: nameOf(board), Shots: board.shots };
    const lines = [[...Object.keys(fixed), ...all.map((one) => one.title)]];
    for (const row of rows) lines.push([...Object.values(fixed), ...all.map((one) => shown(one, row))]);
    const text = lines.map((cells) => cells.map(quoted).join(",") + "\r\n").join("");
    const link = element("a", { download: `compatbench-${at("choose-suite").value}.csv` });
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // ---- figures: drawn when they come into view, of the rows that the filters leave

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "400px" });

  function showFigures() {
    const titles = new Set(rows.map(title));
    const key = JSON.stringify([suite.title, nameOf(board), board.shots, [...titles].sort(), dark.matches]);
    if (key === drawn) return; // another order of the same rows
    drawn = key;
    seen.disconnect();
    for (const section of document.querySelectorAll(".chart")) {
      const own = board.figures.map((one) => ({ ...one, heading: `${nameOf(board)}, ${countShots()}${one.heading}` }));
      const figures = [...own, ...suite.figures].filter((one) => one.kind === section.id);
      section.hidden = !figures.length;
      section.querySelector(".figures").replaceChildren(...figures.map((one) => figure(one, titles)));
    }
    for (const plot of document.querySelectorAll(".plot")) seen.observe(plot);
  }

  // What figures take from a row; a matrix its gains, by dataset and in mean.
  function ofRow(row) {
    const [source, target, h, mean] = ["Source", "Target", "H", "Gain"]
      .map((name) => both(row.cells[index.columns.findIndex((one) => one.title === name)])[1]);
    const gains = [...row.sets[index.measures.indexOf("Gain")], mean];
    return { title: title(row), kind: row.kind, source, target, h, gains };
  }

  function figure(one, titles) {
    if (one.missing) return element("p", { class: "missing" }, `${one.heading}: ${one.missing}.`);
    const values = one.values
      .map((record) => Object.fromEntries(one.fields.map((name, i) => [name, record[i]])))
      .map((value) => (value.row === undefined ? value : { ...ofRow(board.rows[value.row]), ...value }))
      .filter((value) => titles.has(value.title));
    if (!values.length) return element("p", { class: "missing" }, `${one.heading}: no method in it matches the filters.`);
    const plot = element("div", { class: "plot", role: "region", tabindex: 0, "aria-label": one.heading });
    plot.figure = { ...one, values };
    const readout = element("p", { class: "readout", "aria-hidden": "true" });
    return element("figure", {}, plot, element("figcaption", {}, `${one.heading}. ${index.captions[one.kind]}`), readout);
  }

  async function draw(plot, now = false) {
    if (!plot.clientWidth) return; // hidden since
    seen.unobserve(plot);
    const { kind, heading, signals, values } = plot.figure;
    const spec = colour(index.specs[kind]);
    const panel = spec.signals.find((one) => one.name === "child_width")?.value ?? 105;
    const settings = {
      ...signals,
      narrow: plot.clientWidth < 520,
      columns: Math.max(panel > 200 ? 1 : 2, Math.floor((plot.clientWidth - 40) / (panel + 30))),
      kinds: [...new Set(values.map((one) => one.kind))].sort(),
    };
    for (const signal of spec.signals) if (signal.name in settings) signal.value = settings[signal.name];
    spec.data.find((one) => one.name === "rows").values = values;
    spec.description = heading;
    const view = new vega.View(vega.parse(spec, {}, { ast: true }), {
      container: plot,
      expr: vega.expressionInterpreter,
      renderer: "svg",
      hover: false,
      tooltip: () => {},
    });
    // Fingers cannot hover: a tap on a mark writes what it is below the figure, too.
    const tell = (_, item) => {
      if (item?.description) plot.parentElement.querySelector(".readout").textContent = item.description;
    };
    view.addEventListener("click", tell);
    view.addEventListener("pointerover", tell);
    if (now) view.run();
    else await view.runAsync();
    plot.dataset.drawn = "";
  }

  // On paper all figures are there, dark on light; they are drawn before the browser takes the page.
  function paper(on) {
    document.documentElement.classList.toggle("paper", on);
    if (!rows || at("all").hidden) return;
    drawn = undefined;
    showFigures();
    if (on) for (const plot of document.querySelectorAll(".plot")) draw(plot, true);
  }

  // A specification in the colours of the scheme and the page's font.
  function colour(spec) {
    const style = getComputedStyle(document.documentElement);
    let text = JSON.stringify(spec).replaceAll(index.font, style.getPropertyValue("--sans").replaceAll('"', "'"));
    for (const [name, value] of Object.entries(index.colours)) text = text.replaceAll(value, style.getPropertyValue(`--${name}`).trim());
    return JSON.parse(text);
  }

  // ---- tables of the suite's own

  function showParts() {
    at("parts").replaceChildren(...suite.parts.map((part, i) => {
      const title = element("h2", { id: `part-${i}-title` }, part.title);
      const section = element("section", { id: `part-${i}`, "aria-labelledby": title.id }, title);
      section.insertAdjacentHTML("beforeend", part.html);
      wrap(section, part.title);
      return section;
    }));
    const place = at("gaps").querySelector(".scroll");
    const heads = ["Method", "What", "Rows", "Reason"].map((name) => element("th", { scope: "col" }, name));
    const lines = suite.gaps.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
    const made = element("table", { class: "facts" });
    table(made, heads, lines);
    place.replaceChildren(suite.gaps.length ? made : "Nothing is missing: every measurement of the suite is there.");
    const sections = [...document.querySelectorAll("#all section:not([hidden])")];
    at("nav").replaceChildren(...sections.map((section) => {
      const heading = section.querySelector("h2");
      const link = element("a", { href: `#${section.id}` }, heading.textContent);
      link.addEventListener("click", (event) => {
        event.preventDefault(); // the address keeps the view
        section.scrollIntoView();
        heading.tabIndex = -1;
        heading.focus({ preventScroll: true });
      });
      return element("li", {}, link);
    }));
  }

  // Wide tables scroll by themselves, and by keyboard.
  function wrap(place, label, kind = "facts right") {
    for (const made of place.querySelectorAll("table")) {
      const before = made.previousElementSibling?.textContent ?? "";
      const scroll = element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": `${label}. ${before}`.slice(0, 120) });
      made.className = kind;
      made.replaceWith(scroll);
      scroll.append(made);
    }
  }

  // A phone shows each row as a list of its cells with their titles. Roles keep it a table for screen readers.
  function stack(made) {
    const titles = [...made.querySelectorAll("thead th")].map((cell) => cell.textContent);
    const roles = { table: "table", "thead, tbody": "rowgroup", tr: "row", th: "columnheader", td: "cell" };
    for (const [of, role] of Object.entries(roles)) {
      for (const part of [made, ...made.querySelectorAll("*")]) if (part.matches(of)) part.setAttribute("role", role);
    }
    for (const row of made.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, i) => {
        cell.setAttribute("data-title", titles[i]);
        cell.classList.toggle("blank", !cell.textContent.trim());
      });
    }
    made.classList.add("stack");
  }

  // ---- one method

  function showMethod(name) {
    const measured = suite.boards.flatMap((one) => one.rows.filter((row) => row.method === name).map((row) => ({ ...row, board: one })));
    const called = measured.length ? title(measured[0]) : name;
    document.title = `compatbench report: ${called}`;
    at("method-title").textContent = `${called} in ${suite.title}`;
    const verdicts = index.verdicts[name] ?? [];
    if (at("method-verdicts")) {
      at("method-verdicts").replaceChildren(...verdicts.map(([verdict, sentence]) => element("li", { class: verdict.replaceAll(" ", "-") }, sentence)));
      at("method-note").hidden = !verdicts.length;
    }
    at("card").innerHTML = index.methods[name] ?? "";
    wrap(at("card"), called, "facts");
    at("settings").textContent = suite.methods[name].map((i) => index.settings[i]).join("; ") || "none";
    at("command").textContent = suite.command.replace("METHOD", name);
    at("back").href = address({ method: "" });
    const shows = columns().filter(({ i }) => i !== undefined && i !== 1);
    const named = (one) => element("th", { scope: "col", ...(one.text && { class: "text" }) }, one.title);
    const several = new Set(suite.boards.map((one) => one.shots)).size > 1;
    const heads = [{ title: "Upgrade", text: true }, ...(several ? [{ title: "Shots" }] : []), ...shows].map(named);
    table(at("upgrades"), heads, measured.map((row) => element(
      "tr", {},
      element("th", { scope: "row", title: nameOf(row.board) }, (row.board.kind || row.board.title) + (row.track && ` (${row.track})`)),
      ...(several ? [element("td", {}, row.board.shots)] : []),
      ...shows.map((one) => element("td", one.text ? { class: "text" } : {}, one.cell(row)[0])),
    )));
    const measures = index.measures.map((title, m) => ({ title, m }))
      .filter((one) => state.columns === "all" || index.columns.find((column) => column.title === one.title)?.first);
    at("by-dataset").replaceChildren(...measured.map((row) => {
      const label = `${row.board.kind || row.board.title}, ${row.board.shots} shots${row.track && `, ${row.track}`}`;
      const made = element("table", { class: "board", "aria-label": label });
      const lines = suite.tasks.map((task, i) => element(
        "tr", {}, element("th", { scope: "row" }, task),
        ...measures.map(({ m }) => element("td", {}, number(row.sets[m][i], m))),
      ));
      table(made, [{ title: "Task", text: true }, ...measures].map(named), lines);
      return element("details", {}, element("summary", {}, label), element("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, made));
    }));
    at("by-dataset").querySelector("details")?.setAttribute("open", "");
    at("method-title").focus();
    scrollTo(0, 0);
  }

  // ---- controls

  for (const key of CHOICES) {
    at(`choose-${key}`).addEventListener("input", (event) => choose({ [key]: event.target.value }));
  }
  for (const button of document.querySelectorAll("button.more")) {
    button.addEventListener("click", () => choose({ columns: state.columns ? "" : "all" }));
  }
  at("find")?.addEventListener("input", (event) => choose({ q: event.target.value }));
  at("csv").addEventListener("click", csv);
  at("reset").addEventListener("click", () => choose(Object.fromEntries([...FILTERS, "sort"].map((key) => [key, ""]))));
  for (const form of document.querySelectorAll("form")) {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
  }
  at("views").hidden = false;
  for (const answer of document.querySelectorAll(".answer")) {
    wrap(answer, answer.querySelector("h2").textContent);
    for (const made of answer.querySelectorAll("table")) stack(made);
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    at("view").focus();
  });
  addEventListener("hashchange", show);
  dark.addEventListener("change", () => rows && showFigures());
  phone.addEventListener("change", () => rows && show());
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
  state = read();
  show();
}
