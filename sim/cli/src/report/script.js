
"use strict";
// What the page can do beyond being read. All of it is there without this script, and the page's policy allows no
// other.
(() => {
  const make = (tag, attributes, text) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const status = make("p", { class: "hidden", role: "status" });
  document.body.append(status);

  // Sorts by a column: numbers by their value, texts by their letters, rows without either at the end.
  const key = (cell) => {
    const value = cell?.dataset.value;
    if (value !== undefined) return Number(value);
    const text = cell?.textContent.trim() ?? "";
    return text === "–" ? "" : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number") return typeof b === "number" ? a - b : -1;
    if (typeof b === "number") return 1;
    if (a === "") return b === "" ? 0 : 1;
    return b === "" ? -1 : a.localeCompare(b);
  };
  const sort = (table, index, head) => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const order = compare(key(a.cells[index]), key(b.cells[index]));
      const missing = [a, b].some((row) => key(row.cells[index]) === "");
      return up || missing ? order : -order;
    });
    body.append(...rows);
    status.textContent = `Sorted by ${head.textContent}, ${up ? "ascending" : "descending"}`;
  };
  const heads = (table) => {
    if (2 > table.tBodies[0].rows.length) return;
    [...table.querySelectorAll("thead th")].forEach((head, index) => {
      const button = make("button", { type: "button" }, head.textContent);
      if (head.textContent === "") button.setAttribute("aria-label", "Sort by this column");
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(table, index, head));
    });
  };

  // Shows the rows that have all the words.
  const filter = (table, wide) => {
    const rows = [...table.tBodies[0].rows];
    if (8 > rows.length) return;
    const label = make("label", { class: "filter" }, "Rows with ");
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    const count = make("span", { "aria-live": "polite" });
    label.append(input);
    const line = make("p", { class: "tools" });
    line.append(label, count);
    wide.before(line);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(" ").filter((word) => word !== "");
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = words.length === 0 ? "" : ` ${shown} of ${rows.length} rows`;
    });
  };
  for (const wide of document.querySelectorAll(".wide")) {
    const table = wide.querySelector("table:has(thead:not(.hidden))");
    if (table === null) continue;
    heads(table);
    filter(table, wide);
  }

  // A plot twice as large, in its frame that scrolls.
  for (const figure of document.querySelectorAll("figure")) {
    const wide = figure.querySelector(".wide");
    const title = figure.querySelector("h3");
    if (wide === null || title === null) continue;
    const button = make("button", { type: "button", class: "zoom", "aria-pressed": "false" }, "Enlarge");
    button.setAttribute("aria-label", `Enlarge: ${title.textContent}`);
    title.after(button);
    button.addEventListener("click", () => {
      const large = wide.classList.toggle("large");
      button.setAttribute("aria-pressed", String(large));
      button.textContent = large ? "Reduce" : "Enlarge";
      button.setAttribute("aria-label", `${button.textContent}: ${title.textContent}`);
      settle();
    });
  }

  // Frames that need not scroll are no stop of the tabulator.
  const settle = () => {
    for (const wide of document.querySelectorAll(".wide")) {
      if (wide.scrollWidth > wide.clientWidth + 1) wide.setAttribute("tabindex", "0");
      else wide.removeAttribute("tabindex");
    }
  };
  settle();
  addEventListener("resize", settle);

  // What is under the pointer, in place of the browser's own tips, which wait.
  const tip = make("div", { class: "bubble", "aria-hidden": "true" });
  tip.hidden = true;
  document.body.append(tip);
  let last = null;
  const mark = (rect) => {
    if (last === rect) return;
    last?.classList.remove("now");
    rect?.classList.add("now");
    last = rect;
  };
  for (const title of document.querySelectorAll("svg .tip > title")) {
    title.parentNode.dataset.text = title.textContent;
    title.remove();
  }
  // Else the browser would show the name of the whole plot behind every bubble.
  for (const title of document.querySelectorAll("figure svg[role=img] > title")) {
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  const follow = (event) => {
    const rect = event.target.closest?.(".tip") ?? null;
    mark(rect);
    tip.hidden = rect === null;
    if (rect === null) return;
    tip.textContent = rect.dataset.text;
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const left = Math.max(8, Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 8));
    const below = event.clientY + 20;
    const top = below + height > innerHeight ? Math.max(0, event.clientY - height - 12) : below;
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  };
  const hide = () => {
    mark(null);
    tip.hidden = true;
  };
  addEventListener("pointermove", follow);
  addEventListener("pointerdown", follow);
  addEventListener("scroll", hide, { capture: true, passive: true });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
})();
