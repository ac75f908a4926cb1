// What is asked of a page, in the page. Every answer but those on stops is a list of sentences on what is wrong.
({ ask, print }) => {
  const wrong = [];
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const short = (element) => {
    const text = (element.getAttribute("aria-label") ?? element.textContent ?? "").trim().replace(/\s+/g, " ");
    return `<${element.tagName.toLowerCase()}> "${text.slice(0, 60)}"`;
  };
  const shown = (element) => {
    const box = element.getBoundingClientRect();
    return element.checkVisibility({ visibilityProperty: true }) && box.width > 0 && box.height > 0;
  };
  const name = (element) => (element.getAttribute("aria-label") ?? element.textContent ?? "").trim();
  const plots = () => all("figure svg[role=img]");

  // Colours: any color() or rgb() of the computed style as red, green, blue, alpha.
  const colour = (text) => {
    const numbers = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return text.startsWith("color") ? [...numbers.slice(0, 3).map((n) => n * 255), numbers[3] ?? 1] : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const light = ([r, g, b]) => {
    const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const over = (front, back) => front.slice(0, 3).map((value, i) => value * front[3] + back[i] * (1 - front[3]));
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const back = colour(getComputedStyle(at).backgroundColor);
      if (back[3] > 0) return back[3] < 1 ? over(back, behind(at.parentElement ?? document.body)) : back;
    }
    return [255, 255, 255];
  };
  const stops = () => all("a[href], button, input, summary, [tabindex='0']").filter(shown);
  const stop = (element) => `${element.tagName.toLowerCase()} ${name(element).slice(0, 50)}`;

  if (ask === "structure") {
    if (document.documentElement.lang !== "en") wrong.push("no language");
    if (document.title === "") wrong.push("no title");
    for (const [tag, count] of [["h1", 1], ["main", 1], ["header", 1], ["script", 1]]) {
      if (all(tag).length !== count) wrong.push(`expected ${count} ${tag}, found ${all(tag).length}`);
    }
    let level = 0;
    for (const heading of all("h1, h2, h3, h4")) {
      const next = Number(heading.tagName[1]);
      // A page of one section has no heading of its own between the title and those of its plots.
      if (next > level + 1 && !(level === 1 && next === 3)) wrong.push(`${short(heading)} skips a level`);
      level = next;
    }
    const ids = all("[id]").map((element) => element.id);
    if (new Set(ids).size !== ids.length) wrong.push("an id comes twice");
    for (const link of all("a[href^='#']")) {
      if (!document.getElementById(link.hash.slice(1))) wrong.push(`${short(link)} leads nowhere`);
    }
    for (const head of all("th")) {
      if (!["row", "col"].includes(head.scope)) wrong.push(`${short(head)} has no scope`);
    }
    for (const table of all("table")) {
      if (!table.tHead || table.tHead.rows.length !== 1) wrong.push("a table has no head");
    }
    for (const plot of plots()) {
      const [title, text] = [plot.getAttribute("aria-label") ?? plot.querySelector(":scope > title")?.textContent, plot.querySelector(":scope > desc")?.textContent];
      if (!title || !text) wrong.push("a plot has no name or description");
    }
    for (const svg of all("svg:not([role=img])")) {
      if (svg.getAttribute("aria-hidden") !== "true") wrong.push("a picture is neither named nor hidden");
    }
    for (const element of all("button, a, summary, [role=region]")) {
      if (name(element) === "") wrong.push(`${short(element)} has no name`);
    }
    for (const input of all("input")) {
      if (input.labels.length !== 1) wrong.push("an input has no label");
    }
    if (!document.querySelector("p.answer")) wrong.push("no answer");
    if (!document.querySelector("dl.asked code")) wrong.push("no command line");
    return wrong;
  }

  if (ask === "look") {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > width) wrong.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${width}`);
    for (const element of all("body *")) {
      if (!shown(element) || (!print && element.closest(".wide") && !element.matches(".wide")) || element.closest("svg, .hidden, .skip")) continue;
      const box = element.getBoundingClientRect();
      if (box.right > width + 1 || box.left < -1) wrong.push(`${short(element)} leaves the window: ${box.left.toFixed()} to ${box.right.toFixed()} of ${width}`);
    }
    const empty = all("figure").filter((figure) => figure.querySelector("svg[role=img]") === null);
    if (empty.length > 0) wrong.push(`${empty.length} figures without a plot`);
    for (const plot of plots()) {
      const box = plot.getBoundingClientRect();
      const title = plot.getAttribute("aria-label") ?? plot.querySelector(":scope > title")?.textContent;
      if (box.width < 300 || box.height < 40) wrong.push(`${title}: ${box.width.toFixed()} x ${box.height.toFixed()}`);
      const shapes = all("circle, polyline, polygon, rect:not(.tip), path", plot).filter((shape) => {
        const { width, height } = shape.getBBox();
        return width > 0 || height > 0;
      });
      if (shapes.length < 3) wrong.push(`${title}: only ${shapes.length} shapes`);
      const view = plot.viewBox.baseVal;
      const texts = all("text", plot).filter((text) => text.textContent.trim() !== "");
      if (texts.length < 2) wrong.push(`${title}: no labels`);
      for (const text of texts) {
        const at = text.getBoundingClientRect();
        const cut = [box.left - at.left, box.top - at.top, at.right - box.right, at.bottom - box.bottom];
        if (Math.max(...cut) > 3) wrong.push(`${title}: "${text.textContent.trim()}" is cut`);
      }
      const size = parseFloat(getComputedStyle(texts[0] ?? plot).fontSize) * box.width / view.width;
      if (size < (print ? 9 : 11)) wrong.push(`${title}: text of ${size.toFixed(1)} pixels`);
    }
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const seen = new Set();
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (node.textContent.trim() === "" || element.closest("script, style, title, desc, .hidden, .skip") || !shown(element)) continue;
      const style = getComputedStyle(element);
      const drawn = element.closest("svg") !== null;
      const [front, back] = [colour(drawn ? style.fill : style.color), behind(element)];
      const large = parseFloat(style.fontSize) >= (style.fontWeight >= 700 ? 18.66 : 24) && !drawn;
      const ratio = contrast(over(front, back), back);
      const key = `${front} ${back} ${large}`;
      if (ratio < (large ? 3 : 4.5) && !seen.has(key)) wrong.push(`${short(element)}: contrast ${ratio.toFixed(2)}`);
      seen.add(key);
      if (!drawn && parseFloat(style.fontSize) < (print ? 8 : 12)) wrong.push(`${short(element)}: text of ${style.fontSize}`);
    }
    const root = getComputedStyle(document.documentElement);
    const page = behind(document.body);
    for (const role of ["reference", "cptr", "other", "bound", "gpu", "link", "near", "event", "focus"]) {
      const text = root.getPropertyValue(`--${role}`).trim();
      const parts = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
      const ratio = contrast(parts, page);
      if (!(ratio >= 3)) wrong.push(`colour ${role} ${text}: contrast ${ratio.toFixed(2)} with the page`);
    }
    if (!print) {
      for (const element of all("button, input, summary").filter(shown)) {
        const { width: wide, height } = element.getBoundingClientRect();
        if (height < 24 || wide < 24) wrong.push(`${short(element)} is ${wide.toFixed()} x ${height.toFixed()}: too small to touch`);
      }
    }
    return wrong.slice(0, 12);
  }

  if (ask === "stops") return stops().map(stop);

  if (ask === "focus") {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) wrong.push("focus is not seen");
    if (box.bottom < 0 || box.top > innerHeight) wrong.push("focus is outside the window");
    if (name(element) === "" && element.labels?.length !== 1) wrong.push("no name");
    return { stop: stop(element), wrong };
  }

  // The page in the hands of a user.
  if (ask === "use") {
    for (const table of all("table")) {
      const button = table.querySelector("thead th:last-child button");
      if (!button) continue;
      const before = table.tBodies[0].rows.length;
      const column = button.closest("th").cellIndex;
      const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value).filter((value) => value !== undefined).map(Number);
      button.click();
      const up = values();
      if (up.some((value, i) => i > 0 && value < up[i - 1])) wrong.push(`${short(button)} does not sort upwards`);
      if (button.closest("th").getAttribute("aria-sort") !== "ascending") wrong.push(`${short(button)}: order is not said`);
      button.click();
      const down = values();
      if (down.some((value, i) => i > 0 && value > down[i - 1])) wrong.push(`${short(button)} does not sort downwards`);
      if (table.tBodies[0].rows.length !== before) wrong.push("sorting loses rows");
    }
    for (const input of all("input[type=search]")) {
      const table = input.closest("p").nextElementSibling.querySelector("table");
      const visible = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
      const every = visible();
      const type = (text) => {
        input.value = text;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      };
      type("no row has these words");
      if (visible() !== 0) wrong.push("the filter keeps rows without its words");
      type(table.tBodies[0].rows[0].cells[0].textContent.trim());
      if (visible() < 1) wrong.push("the filter hides rows with its words");
      type("");
      if (visible() !== every) wrong.push("the filter does not give rows back");
    }
    for (const button of all("button.zoom")) {
      const plot = button.closest("figure").querySelector("svg[role=img]");
      const width = () => plot.getBoundingClientRect().width;
      const before = width();
      button.click();
      if (width() < 1.5 * before) wrong.push(`${short(button)} enlarges nothing`);
      if (document.documentElement.scrollWidth > document.documentElement.clientWidth) wrong.push("enlarged plots leave the page");
      button.click();
      if (Math.abs(width() - before) > 1) wrong.push(`${short(button)} does not go back`);
    }
    const tip = document.querySelector("svg .tip");
    if (tip) {
      const said = tip.dataset.text;
      tip.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: 100, clientY: 100 }));
      const bubble = document.querySelector(".bubble");
      if (bubble.hidden || bubble.textContent !== said) wrong.push("a value is not shown under the pointer");
      document.dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, key: "Escape" }));
      if (!bubble.hidden) wrong.push("escape does not hide the value");
    } else if (plots().length > 0) wrong.push("no plot has values");
    return wrong;
  }

  // What has to be there without the script.
  if (ask === "bare") {
    if (document.querySelector("button, input")) wrong.push("a control that does nothing");
    for (const plot of plots()) {
      if (!plot.querySelector(":scope > title")) wrong.push("a plot has no name");
      if (!plot.querySelector(".tip > title")) wrong.push(`${plot.querySelector(":scope > title")?.textContent}: no values under the pointer`);
    }
    for (const wide of all(".wide")) if (wide.tabIndex !== 0) wrong.push("a frame that scrolls is no stop of the tabulator");
    return wrong;
  }
  return [`what is ${ask}?`];
}
