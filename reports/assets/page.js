// Tables that sort, and the contents that show where the reader is.
const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").onclick = () => {
    const numeric = head.classList.contains("number"), now = head.ariaSort;
    const order = now ? (now === "ascending" ? -1 : 1) : (numeric ? -1 : 1);
    for (const other of heads) other.removeAttribute("aria-sort");
    head.ariaSort = order > 0 ? "ascending" : "descending";
    const key = row => row.cells[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => key(a) === "" ? 1 : key(b) === "" ? -1 : order * compare(key(a), key(b)));
    body.append(...rows);
  });
}
const links = new Map([...document.querySelectorAll("nav a")].map(link => [link.hash.slice(1), link]));
const contents = document.querySelector("nav details");
if (contents && innerWidth < 1088) contents.open = false;
const seen = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) if (isIntersecting) {
    for (const link of links.values()) link.classList.remove("here");
    links.get(target.id)?.classList.add("here");
  }
}, {rootMargin: "0px 0px -75% 0px"});
for (const heading of document.querySelectorAll("h2[id], h3[id]")) seen.observe(heading);
