"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures."],
"tasks": ["Cats","Dogs"],
"boards": [
{"upgrade":["old","new"],"kind":"","title":"Old model → New model","shots":"4","rows":[["tip","deep","",[],[["–",1],"Tip-Adapter","deep",["55.0 ± 0.0",55.0],["65.0 ± 0.0",65.0],["59.6 ± 0.0",59.58],["0.0 to 100.0",0.0],["+5.0",5.0],["–",null],["0",0],["0.1 s",0.1]],[[54.5,64.6],[50.0,60.0],[60.0,70.0],[0.0,10.0],[null,null]]],["coop","shallow","",["images","classes"],[["–",2],"CoOp","shallow",["65.0 ± 0.0",65.0],["45.0 ± 0.0",45.0],["53.2 ± 0.0",53.167],["0.0 to 100.0",0.0],["-15.0",-15.0],["–",null],["3,072",3072],["20.0 s",20.0]],[[48.0,58.3],[60.0,70.0],[40.0,50.0],[-20.0,-10.0],[null,null]]],["zeroshot","floor","",["width","images","classes"],[["–",3],"Zero-shot","–",["40.0",40.0],["60.0",60.0],["48.0",47.98],["0.0 to 100.0",0.0],["0.0",0.0],["–",null],["8,192",8192],["–",null]],[[42.8,53.2],[35.0,45.0],[55.0,65.0],[-5.0,5.0],[null,null]]],["probe","deep","",[],[["–",4],"Linear probe","deep",["75.0 ± 0.0",75.0],["25.0 ± 0.0",25.0],["37.4 ± 0.0",37.374],["0.0 to 100.0",0.0],["-35.0",-35.0],["–",null],["5,000",5000],["1.0 s",1.0]],[[31.1,43.6],[70.0,80.0],[20.0,30.0],[-40.0,-30.0],[null,null]]]],"figures":[{"kind":"scatter","heading":"","missing":"","signals":{"x0":37,"x1":78,"y0":22,"y1":68,"step":5,"zero_source":40.0,"zero_target":60.0},"fields":["row","named"],"values":[[0,true],[1,true],[2,true],[3,false]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1],[2],[3]]}]}
],
"figures": [],
"parts": [],
"methods": {"coop":[0],"probe":[0],"tip":[0],"zeroshot":[0]},
"gaps": [],
"command": "compatbench run --suite tiny --methods METHOD"
};
