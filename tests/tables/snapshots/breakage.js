"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures."],
"tasks": ["Cats"],
"boards": [
{"upgrade":["old","new"],"kind":"","title":"Old model → New model","shots":"4","rows":[["coop","shallow","",["images","classes"],[["–",1],"CoOp","shallow",["70.0 ± 0.0",70.0],["66.0 ± 0.0",66.0],["67.9 ± 0.0",67.941],["–",null],["+6.0",6.0],["8.0",8.0],["8,192",8192],["0.4 s",0.4]],[[67.9],[70.0],[66.0],[6.0],[8.0]]],["zeroshot","floor","",["width","images","classes"],[["–",2],"Zero-shot","–",["40.0",40.0],["60.0",60.0],["48.0",48.0],["–",null],["0.0",0.0],["–",null],["8,192",8192],["–",null]],[[48.0],[40.0],[60.0],[0.0],[null]]]],"figures":[{"kind":"scatter","heading":"","missing":"","signals":{"x0":38,"x1":72,"y0":59,"y1":67,"step":2,"zero_source":40.0,"zero_target":60.0},"fields":["row","named"],"values":[[0,true],[1,true]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Mean"]},"fields":["row"],"values":[[0],[1]]}]}
],
"figures": [],
"parts": [],
"methods": {"coop":[0],"zeroshot":[0]},
"gaps": [["Zero-shot","missing","4","–"]],
"command": "compatbench run --suite tiny --methods METHOD"
};
