"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures.","Also given, by method: another backbone as a teacher (outside information): KDPL; all test images at once, in a drawn order: TDA."],
"tasks": ["Cats","Dogs"],
"boards": [
{"upgrade":["old","new"],"title":"Old model → New model","shots":"4","rows":[["coop","shallow","",[["1",1],"CoOp","shallow",["63.0 ± 1.4",63.0],["58.0 ± 1.4",58.0],["60.4 ± 1.4",60.397],["60.4 to 60.4",60.397],["-2.0",-2.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[60.4,60.4],[63.0,63.0],[58.0,58.0],[-2.0,-2.0],[null,null]]],["kdpl","shallow","",[["2",2],"KDPL","shallow",["50.0 ± 0.0",50.0],["50.0 ± 0.0",50.0],["50.0 ± 0.0",50.0],["50.0 to 50.0",50.0],["-10.0",-10.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[50.0,50.0],[50.0,50.0],[50.0,50.0],[-10.0,-10.0],[null,null]]],["zeroshot","floor","",[["3",3],"Zero-shot","–",["40.0",40.0],["60.0",60.0],["48.0",48.0],["48.0 to 48.0",48.0],["0.0",0.0],["–",null],["8,192",8192],["–",null]],[[48.0,48.0],[40.0,40.0],[60.0,60.0],[0.0,0.0],[null,null]]],["tda","deep","transductive",[["transductive 1",4],"TDA (transductive)","deep",["90.0 ± 0.0",90.0],["90.0 ± 0.0",90.0],["90.0 ± 0.0",90.0],["90.0 to 90.0",90.0],["+30.0",30.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[90.0,90.0],[90.0,90.0],[90.0,90.0],[30.0,30.0],[null,null]]],["coop","transferred","words",[["words 1",5],"CoOp (words)","shallow",["65.0 ± 0.0",65.0],["60.0 ± 0.0",60.0],["62.4 ± 0.0",62.4],["62.4 to 62.4",62.4],["0.0",0.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[62.4,62.4],[65.0,65.0],[60.0,60.0],[0.0,0.0],[null,null]]],["other","transferred","words",[["words 2",6],"other (words)","shallow",["20.0 ± 0.0",20.0],["20.0 ± 0.0",20.0],["20.0 ± 0.0",20.0],["20.0 to 20.0",20.0],["-40.0",-40.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[20.0,20.0],[20.0,20.0],[20.0,20.0],[-40.0,-40.0],[null,null]]]],"figures":[{"kind":"scatter","heading":"","missing":"","signals":{"x0":15,"x1":95,"y0":49,"y1":61,"step":5,"zero_source":40.0,"zero_target":60.0},"fields":["row","named","before"],"values":[[0,true,null],[1,false,null],[2,true,null],[3,false,null],[4,false,[63.0,58.0]],[5,false,null]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1],[2],[3],[4],[5]]}]}
],
"figures": [],
"parts": [],
"methods": {"coop":[0],"kdpl":[0],"other":[1,2],"tda":[0],"zeroshot":[0]},
"gaps": [],
"command": "compatbench run --suite tiny --methods METHOD --seeds 1,2"
};
