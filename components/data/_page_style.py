"""How the data report looks: one style sheet, light and dark, on screen and on paper. No font or picture is fetched."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2127;--dim:#626c77;--line:#e2e6ea;--soft:#f5f7f8;--bar:#3d74b8;
--tail:#a9c3e2;--good:#1d7a4b;--bad:#b3372b;--warn:#8a6100;--goodbg:#e7f4ec;--badbg:#fbeae8;--warnbg:#fbf3df}
@media (prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#dfe3e8;--dim:#929ca8;--line:#2c323a;--soft:#1d2127;
--bar:#6ba1e0;--tail:#38567c;--good:#63c08e;--bad:#f08579;--warn:#dfb04f;--goodbg:#16291f;--badbg:#331c1a;
--warnbg:#2d2512}}
*{box-sizing:border-box}
html{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,sans-serif;-webkit-text-size-adjust:100%}
body{max-width:64rem;margin:0 auto;padding:1.75rem 1.25rem 3rem}
h1{font-size:.8rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase;color:var(--dim);margin:0 0 .75rem}
h2{font-size:1.05rem;font-weight:650;margin:2.25rem 0 .6rem}
h3{font-size:.85rem;font-weight:600;margin:1.1rem 0 .3rem}
p{margin:.4rem 0;max-width:46rem}
.dim,figcaption,dt,th{color:var(--dim)}
.note{color:var(--dim);font-size:.85rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre,.file{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.8rem;
overflow-wrap:anywhere}
.verdict{border-left:4px solid var(--tone);background:var(--tonebg);padding:.8rem 1.1rem;border-radius:0 6px 6px 0}
.verdict strong{display:block;font-size:1.35rem;line-height:1.3;font-weight:650;letter-spacing:-.01em}
.verdict p{margin:.3rem 0 0}
.good{--tone:var(--good);--tonebg:var(--goodbg)}.bad{--tone:var(--bad);--tonebg:var(--badbg)}
.warn{--tone:var(--warn);--tonebg:var(--warnbg)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:1px;margin:1rem 0 0;
border:1px solid var(--line);border-radius:6px;overflow:hidden}
.tiles>div{box-shadow:0 0 0 1px var(--line);padding:.6rem .85rem;display:flex;flex-direction:column}
.tiles dt{font-size:.78rem}
.tiles dd{margin:0;font-size:1.3rem;font-weight:600;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.tiles small{display:block;color:var(--dim);font-size:.78rem;font-weight:400;letter-spacing:0;line-height:1.35}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;min-width:36rem;font-size:.88rem}
th{font-weight:500;font-size:.78rem;text-align:left;vertical-align:bottom}
th,td{padding:.36rem .8rem .36rem 0;border-bottom:1px solid var(--line)}
th:last-child,td:last-child{padding-right:0}
td{vertical-align:top}
th.n{text-align:right}
tbody th{color:var(--fg);font-size:.88rem;vertical-align:top;font-weight:600;white-space:nowrap}
tbody.quiet th{font-weight:500}.quiet th,.quiet td{padding-top:.2rem;padding-bottom:.2rem}
tbody.quiet th.group{color:var(--dim);font-size:.78rem;white-space:normal}tbody+.quiet th.group{padding-top:1.1rem}
tr.open>*{border-bottom:0}
tr.more>td{padding-top:0}
.badge{display:inline-block;font-size:.74rem;line-height:1.5;padding:0 .45rem;border-radius:9px;white-space:nowrap;
color:var(--dim);background:var(--soft);border:1px solid var(--line)}
.badge.bad{color:var(--tone);background:var(--tonebg);border-color:transparent}
.share{display:flex;width:7rem;height:.5rem;margin-top:.45rem;border-radius:3px;overflow:hidden;background:var(--bad)}
.share i{background:var(--good);border-right:1px solid var(--bg)}
.hit{font-weight:650;color:var(--bad)}
summary{cursor:pointer;color:var(--dim);font-size:.82rem;width:fit-content}
summary:hover{color:var(--fg)}
.row{margin:.5rem 0 .8rem;padding-left:.8rem;border-left:2px solid var(--line)}
.row p{margin:0;font-size:.84rem}
.row pre{margin:.3rem 0 0;padding:.5rem .7rem;background:var(--soft);border-radius:4px;white-space:pre-wrap;
max-height:15rem;overflow:auto;contain:paint;unicode-bidi:isolate;line-height:1.45}
b.u{font:600 .68rem/1.3 ui-monospace,monospace;color:var(--warn);background:var(--warnbg);border-radius:3px;
padding:0 .2rem;margin:0 1px;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:.6rem 1.6rem}
figure{margin:0}
figcaption{font-size:.8rem}
figcaption b{color:var(--fg);font-weight:600}
svg{display:block;width:100%;height:auto;margin-top:.2rem}
svg text{font:10px system-ui,sans-serif;fill:var(--dim)}
svg rect{fill:var(--bar)}svg .tail{fill:var(--tail)}
svg path{stroke:var(--line);fill:none}
.same,.charts+p,h3+p{font-size:.88rem}h3+p{margin:.2rem 0 .5rem}.same{padding:.5rem 0}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.2rem;margin:.4rem 0;font-size:.88rem}
dl.facts dd{margin:0;overflow-wrap:anywhere}
footer{margin-top:2.5rem;padding-top:.7rem;border-top:1px solid var(--line)}
@media (max-width:34rem){dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:.5rem}}
@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--dim:#555;--line:#ccc;--soft:#f6f6f6;--bar:#3d74b8;
--tail:#a9c3e2;--good:#1d7a4b;--bad:#b3372b;--warn:#8a6100;--goodbg:#e7f4ec;--badbg:#fbeae8;--warnbg:#fbf3df}
html{font-size:11px;print-color-adjust:exact;-webkit-print-color-adjust:exact}body{max-width:none;padding:0}
details::details-content{content-visibility:visible;display:block;block-size:auto}
.row pre{max-height:none;overflow:visible}.scroll{overflow:visible}
h2,h3{break-after:avoid}figure,tr,.row p,.tiles{break-inside:avoid}}
"""
