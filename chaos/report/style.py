"""The style of the page. Colours are variables, so that dark is the same page with other values."""

CSS = """
:root { color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b2430; --soft: #5b6675; --line: #dfe3e8; --faint: #eceff3;
  --good: #137a4b; --bad: #c0271d; --warn: #a86400; --main: #2458b8; --second: #8a3fa0;
  --fault: #c0271d1f; --ok-area: #2458b840; --leader: #2458b8; --leader2: #5b8be0; --up: #cfd6df;
  --hurt: #e0a030; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #11151b; --card: #191f28; --ink: #e4e9f0; --soft: #98a4b5; --line: #2c3542; --faint: #212936;
  --good: #4cc38a; --bad: #ff7369; --warn: #f0b04d; --main: #7aa7ff; --second: #d08be6;
  --fault: #ff73692e; --ok-area: #7aa7ff40; --leader: #5b8cf0; --leader2: #34558f; --up: #364152;
  --hurt: #a8741d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 64px; max-width: 1240px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0; line-height: 1.2; } h2 { font-size: 19px; margin: 40px 0 6px; }
h3 { font-size: 15px; margin: 0; } p { margin: 4px 0 10px; max-width: 75ch; } .soft { color: var(--soft); }
code, pre, .num { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; font-size: 13px; }
pre { margin: 6px 0; padding: 8px 10px; background: var(--faint); border-radius: 6px; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; }
.badge { padding: 3px 12px; border-radius: 99px; font-weight: 650; color: var(--paper);
  background: var(--soft); }
.badge.clean { background: var(--good); } .badge.violation { background: var(--bad); }
.badge.invalid { background: var(--warn); }
.replay { display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; margin: 12px 0 0; }
.replay code { background: var(--faint); padding: 3px 8px; border-radius: 6px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(45%, 200px), 1fr)); gap: 10px;
  margin: 18px 0 0; padding: 0; }
.tiles div { background: var(--card); border-radius: 8px; padding: 10px 12px; }
.tiles dt { color: var(--soft); font-size: 13px; } .tiles dd { margin: 0; font-size: 20px; font-weight: 600; }
.tiles dd small { font-size: 13px; font-weight: 400; color: var(--soft); }
.tiles .bad dd { color: var(--bad); }
.strip { display: grid; grid-template-columns: 190px 1fr; gap: 2px 12px; align-items: center; }
.strip .name { font-size: 13px; text-align: right; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.plot { position: relative; min-width: 0; }
.plot svg { display: block; width: 100%; background: var(--card); border-radius: 4px; }
.plot .term { position: absolute; top: 0; bottom: 0; display: flex; align-items: center; padding-left: 5px;
  font-size: 11px; color: #fff; pointer-events: none; overflow: hidden; white-space: nowrap; }
.ticks { position: relative; height: 18px; font-size: 12px; color: var(--soft); }
.ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.ticks span:first-child { transform: none; } .ticks span:last-child { transform: translateX(-100%); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 14px; }
.panel { background: var(--card); border-radius: 8px; padding: 10px 12px; min-width: 0; }
.panel .plot svg { background: var(--paper); } .panel .head { display: flex; justify-content: space-between;
  gap: 8px; flex-wrap: wrap; }
.panel .side { font-size: 12px; color: var(--soft); display: flex; justify-content: space-between;
  gap: 8px; margin-top: 6px; }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); margin: 6px 0 10px; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; }
.scroll { overflow-x: auto; } .tall { max-height: 560px; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--soft); font-weight: 500; font-size: 13px; }
.codes { display: block; min-width: 300px; } th.r { white-space: normal; min-width: 64px; }
.tall th { position: sticky; top: 0; background: var(--paper); }
th.r { text-align: right; }
td.r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: var(--bad); } .good { color: var(--good); } .warn { color: var(--warn); }
details summary { cursor: pointer; color: var(--main); }
td details { max-width: 420px; min-width: 150px; }
.violation-card { border-left: 4px solid var(--bad); background: var(--card); padding: 10px 14px;
  border-radius: 0 8px 8px 0; margin: 10px 0; overflow-wrap: anywhere; }
@media (max-width: 640px) { body { padding: 16px 12px 48px; } h1 { font-size: 22px; }
  .strip { grid-template-columns: 1fr; } .strip .name { text-align: left; margin-top: 4px; }
  .mid { display: none !important; } }
"""
