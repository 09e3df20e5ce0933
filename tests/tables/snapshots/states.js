"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures."],
"tasks": ["Cats","Dogs"],
"boards": [
{"upgrade":["old","new"],"kind":"","title":"Old model → New model","shots":"4","rows":[["coop","shallow","",["images","classes"],[["–",1],"CoOp","shallow",["63.0 ± 1.4",63.0],["58.0 ± 1.4",58.0],["60.4 ± 1.4",60.397],["60.4 to 60.4",60.397],["-2.0",-2.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[60.4,60.4],[63.0,63.0],[58.0,58.0],[-2.0,-2.0],[null,null]]],["zeroshot","floor","",["width","images","classes"],[["–",2],"Zero-shot","–",["40.0",40.0],["60.0",60.0],["48.0",48.0],["48.0 to 48.0",48.0],["0.0",0.0],["–",null],["8,192",8192],["–",null]],[[48.0,48.0],[40.0,40.0],[60.0,60.0],[0.0,0.0],[null,null]]],["linear_probe","deep","",["images"],[["–",3],"Linear probe","deep",["81.0 ± 1.4",81.0],["6.0 ± 1.4",6.0],["11.2 ± 2.5",11.155],["11.2 to 11.2",11.155],["-54.0",-54.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[11.2,11.2],[81.0,81.0],[6.0,6.0],[-54.0,-54.0],[null,null]]],["visual","deep","",[],[["–",4],"Visual prompt","deep",["61.0 ± 1.4",61.0],["not transferable",null],["–",null],["–",null],["–",null],["–",null],["8,192",8192],["0.4 s",0.4]],[[null,null],[61.0,61.0],[null,null],[null,null],[null,null]]],["gone","deep","",[],[["–",5],"Gone","deep",["–",null],["–",null],["incomplete",null],["–",null],["–",null],["–",null],["8,192",8192],["0.4 s",0.4]],[[null,null],[null,56.0],[56.0,null],[-4.0,null],[null,null]]],["bad","deep","",[],[["–",6],"Bad","deep",["90.0 ± 0.0",90.0],["90.0 ± 0.0",90.0],["refused",null],["–",null],["+30.0",30.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[null,null],[90.0,90.0],[90.0,90.0],[30.0,30.0],[null,null]]]],"figures":[{"kind":"scatter","heading":". No H, so no mark: Visual prompt, Gone, Bad","missing":"","signals":{"x0":37,"x1":84,"y0":57,"y1":61,"step":5,"zero_source":40.0,"zero_target":60.0},"fields":["row","named"],"values":[[0,true],[1,true],[2,true]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1],[2],[3],[4],[5]]}]}
],
"figures": [],
"parts": [],
"methods": {"bad":[0],"coop":[0],"gone":[0],"linear_probe":[0],"visual":[0],"zeroshot":[0]},
"gaps": [["Gone","failed","1","RuntimeError: no | <b>"],["Gone","missing","1","–"],["Visual prompt","not transferable","4","width 128, not 192"]],
"command": "compatbench run --suite tiny --methods METHOD"
};
