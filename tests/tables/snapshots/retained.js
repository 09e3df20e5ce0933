"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures."],
"tasks": ["Cats","Dogs"],
"boards": [
{"upgrade":["old","new"],"kind":"","title":"Old model → New model","shots":"4","rows":[["coop","shallow","",["images","classes"],[["–",1],"CoOp","shallow",["50.0 ± 0.0",50.0],["66.0 ± 0.0",66.0],["56.9 ± 0.0",56.864],["42.7 to 71.0",42.688],["+6.0",6.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[55.7,58.0],[50.0,50.0],[63.0,69.0],[3.0,9.0],[null,null]]],["zeroshot","floor","",["width","images","classes"],[["–",2],"Zero-shot","–",["40.0",40.0],["60.0",60.0],["48.0",48.0],["48.0 to 48.0",48.0],["0.0",0.0],["–",null],["8,192",8192],["–",null]],[[48.0,48.0],[40.0,40.0],[60.0,60.0],[0.0,0.0],[null,null]]]],"figures":[{"kind":"scatter","heading":"","missing":"","signals":{"x0":39,"x1":51,"y0":59,"y1":67,"step":1,"zero_source":40.0,"zero_target":60.0},"fields":["row","named"],"values":[[0,true],[1,true]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1]]}]}
],
"figures": [],
"parts": [
{"title":"Compared with retraining","html":"<p>The gain over the target's zero-shot of the old module, that of a module retrained on the target from the same images, and the share that is kept; 4 shots. <em>Kept</em> is a ratio of two means over datasets and seeds, because a mean of ratios would depend mostly on the dataset where retraining gains least; <em>&lt; 0</em>: the old module is worse than none. There is no share if retraining does not clearly gain: the 95 % interval of its mean gain is not above 0.</p><p>Old model → New model.</p><table><thead><tr><th class=text>Method<th>Old module<th>Retrained<th>Kept, %<th>95 % of kept</thead><tbody><tr><td class=text>CoOp<td>+6.0<td>+16.0<td>–<td>–</tbody></table>"}
],
"methods": {"coop":[0],"zeroshot":[0]},
"gaps": [],
"command": "compatbench run --suite tiny --methods METHOD"
};
