"""How the report page looks: light and dark, on a phone and on paper. Colours say who is meant, see `tables`."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --raised: #ffffff; --ink: #1a1f2b; --soft: #5b6472; --faint: #8b93a1; --rule: #e4e6ea;
  --world: #2457d6; --readout: #7a4fd0; --baseline: #b4531f; --limit: #0f7b6c; --band: .13;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12151b; --raised: #191d25; --ink: #e8eaee; --soft: #a3abb8; --faint: #747d8c; --rule: #2b313c;
    --world: #82a8ff; --readout: #b99cf7; --baseline: #f0a070; --limit: #52cdb8; --band: .17;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 960px; margin: 0 auto; padding: 56px 24px 80px; }
.eyebrow { margin: 0 0 10px; color: var(--soft); font-size: 14px; }
h1 { margin: 0 0 16px; font-size: clamp(28px, 5vw, 42px); line-height: 1.12; letter-spacing: -.02em; font-weight: 680; }
h2 { margin: 0 0 10px; font-size: 24px; line-height: 1.25; letter-spacing: -.01em; font-weight: 650; }
h3, caption, figcaption { font-size: 14px; font-weight: 600; text-align: left; }
.lead { margin: 0; max-width: 44em; font-size: 18px; color: var(--soft); }
.lead strong { color: var(--ink); font-weight: 600; }
.numbers {
  display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 36px 0 28px; padding: 0;
  list-style: none;
}
.numbers li {
  display: flex; flex-direction: column; padding: 16px 16px 14px; background: var(--raised);
  border: 1px solid var(--rule); border-radius: 10px;
}
.numbers .big { font-size: 31px; line-height: 1.15; font-weight: 660; letter-spacing: -.02em; color: var(--world); }
.numbers .unit { font-size: 14px; font-weight: 500; letter-spacing: 0; color: var(--soft); }
.numbers .interval { min-height: 1.5em; font-size: 13px; color: var(--faint); }
.numbers .what { margin: 4px 0 10px; font-size: 14px; line-height: 1.4; }
.numbers .against {
  margin-top: auto; padding-top: 8px; border-top: 1px solid var(--rule); font-size: 13px; line-height: 1.4;
  color: var(--soft);
}
nav { display: flex; flex-wrap: wrap; margin: 0 0 8px; font-size: 14px; line-height: 2; }
nav a { margin-right: 18px; color: var(--soft); text-decoration: none; white-space: nowrap; }
nav a:hover { color: var(--world); text-decoration: underline; }
section { margin-top: 56px; padding-top: 28px; border-top: 1px solid var(--rule); }
.means { margin: 0 0 8px; max-width: 44em; font-size: 17px; }
.how { margin: 0 0 22px; max-width: 50em; font-size: 14px; color: var(--soft); }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 24px;
  margin: 0 0 26px;
}
.charts.single { max-width: 560px; }
figure { margin: 0; }
figcaption { margin-bottom: 6px; }
svg {
  display: block; width: 100%; height: auto; overflow: visible;
  font: 11.5px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
}
svg text { fill: var(--soft); }
svg .words { fill: var(--faint); } svg .value { fill: var(--ink); font-weight: 600; } svg .label { fill: var(--ink); }
svg .small { font-size: 10px; fill: var(--faint); }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--faint); stroke-width: 1; }
.diagonal { stroke: var(--faint); stroke-width: 1.2; stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.thin { stroke-width: 1.2; opacity: .55; }
.whisker { fill: none; stroke-width: 1.4; } .whisker.over { stroke: var(--ink); opacity: .6; }
.line.dashed { stroke-dasharray: 6 5; }
.band { stroke: none; opacity: var(--band); } .bar { opacity: .88; }
.line.world, .whisker.world { stroke: var(--world); } .band.world, .dot.world, .bar.world { fill: var(--world); }
.line.readout, .whisker.readout { stroke: var(--readout); }
.band.readout, .dot.readout, .bar.readout { fill: var(--readout); }
.line.baseline, .whisker.baseline { stroke: var(--baseline); }
.band.baseline, .dot.baseline, .bar.baseline { fill: var(--baseline); }
.line.limit, .whisker.limit { stroke: var(--limit); } .band.limit, .dot.limit, .bar.limit { fill: var(--limit); }
.legend {
  display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 0; padding: 0; list-style: none; font-size: 13px;
  color: var(--soft);
}
.key { display: inline-block; width: 9px; height: 9px; margin-right: 7px; border-radius: 50%; background: var(--rule); }
.key.world { background: var(--world); } .key.readout { background: var(--readout); }
.key.baseline { background: var(--baseline); } .key.limit { background: var(--limit); }
.key.dashed {
  width: 14px; height: 0; border-radius: 0; background: none; border-top: 2px dashed var(--limit);
  vertical-align: middle;
}
.key.dashed.baseline { border-color: var(--baseline); }
.key.diagonal {
  width: 14px; height: 0; border-radius: 0; border-top: 2px dashed var(--faint); background: none;
  vertical-align: middle;
}
.scroll { overflow-x: auto; margin: 0 0 22px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { padding-bottom: 6px; }
th, td {
  padding: 6px 0 6px 18px; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--rule);
  white-space: nowrap; font-weight: 400;
}
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th { color: var(--faint); font-size: 13px; }
tr.group th { padding-top: 14px; font-weight: 600; }
tr.world td { font-weight: 600; }
.interval { color: var(--faint); font-weight: 400; font-size: 12.5px; }
td .interval { margin-left: 6px; }
.films figure { margin: 0 0 22px; }
.films .scroll { margin: 0; }
.films img { display: block; width: 100%; min-width: 620px; border: 1px solid var(--rule); border-radius: 8px; }
.skipped { padding-left: 18px; font-size: 14px; color: var(--soft); }
footer table { font-size: 13px; } footer td { white-space: normal; text-align: left; }
@media (max-width: 860px) { .numbers { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 520px) {
  main { padding: 32px 16px 56px; } .lead { font-size: 16px; } .numbers { gap: 8px; margin: 26px 0 22px; }
  .numbers li { padding: 12px; } .numbers .big { font-size: 25px; }
  td .interval { display: block; margin: 0; } th, td { padding-left: 12px; }
}
@media print {
  :root { --paper: #fff; --raised: #fff; --ink: #111; --soft: #444; --faint: #777; --rule: #ddd;
    --world: #2457d6; --readout: #7a4fd0; --baseline: #b4531f; --limit: #0f7b6c; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; } nav { display: none; }
  section { margin-top: 28px; padding-top: 16px; } figure, table, .numbers li { break-inside: avoid; }
  h2, .means { break-after: avoid; } .scroll { overflow: visible; }
}
"""
