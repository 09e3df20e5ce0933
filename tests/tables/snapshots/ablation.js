"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures."],
"tasks": ["Cats","Dogs"],
"boards": [
{"upgrade":["old","new"],"kind":"","title":"Old model → New model","shots":"4","rows":[["contcoop","shallow","",["images","classes"],[["–",1],"contcoop","shallow",["56.0 ± 1.4",56.0],["56.0 ± 1.4",56.0],["56.0 ± 1.4",56.0],["0.0 to 100.0",0.0],["-4.0",-4.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[51.0,61.0],[51.0,61.0],[51.0,61.0],[-9.0,1.0],[null,null]]],["alone+config","shallow","",[],[["–",2],"alone+config","shallow",["55.5 ± 0.7",55.5],["55.5 ± 0.7",55.5],["55.5 ± 0.7",55.5],["36.4 to 74.6",36.441],["-4.5",-4.5],["–",null],["8,192",8192],["0.4 s",0.4]],[[54.0,57.0],[54.0,57.0],[54.0,57.0],[-6.0,-3.0],[null,null]]],["contcoop+no-kd","shallow","",[],[["–",3],"contcoop+no-kd","shallow",["55.5 ± 0.7",55.5],["55.5 ± 0.7",55.5],["55.5 ± 0.7",55.5],["36.4 to 74.6",36.441],["-4.5",-4.5],["–",null],["8,192",8192],["0.4 s",0.4]],[[54.0,57.0],[54.0,57.0],[54.0,57.0],[-6.0,-3.0],[null,null]]],["contcoop+cross","shallow","",[],[["–",4],"contcoop+cross","shallow",["51.0 ± 0.7",51.0],["51.0 ± 0.7",51.0],["51.0 ± 0.7",51.0],["0.0 to 100.0",0.0],["-9.0",-9.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[46.0,56.0],[46.0,56.0],[46.0,56.0],[-14.0,-4.0],[null,null]]]],"figures":[{"kind":"scatter","heading":"","missing":"","signals":{"x0":50,"x1":57,"y0":50,"y1":57,"step":1,"zero_source":40.0,"zero_target":60.0},"fields":["row","named"],"values":[[0,true],[1,false],[2,false],[3,false]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1],[2],[3]]}]}
],
"figures": [],
"parts": [
{"title":"Ablation","html":"<p>What each change does to the method that it is made to, in points: mean differences over datasets, 4 shots; in bold if the 95 % interval (paired, over datasets) does not contain 0.</p><p>Old model → New model.</p><table><thead><tr><th class=text>Config<th class=text>Change<th>Diversity<th>Source<th>Target<th>H<th>95 % of H</thead><tbody><tr><td class=text>contcoop<td class=text>–<td>–<td>–<td>–<td>–<td>–<tr><td class=text>contcoop+no-kd<td class=text><code>weight</code>: 8.0 → 0.0<td>–<td>-0.5<td>-0.5<td>-0.5<td>-45.0 to +44.0<tr><td class=text>contcoop+cross<td class=text><code>attention</code>: self → cross<td>0.25<td>-5.0<td>-5.0<td>-5.0<td>-5.0 to -5.0<tr><td class=text>alone+config<td class=text>–<td>–<td>–<td>–<td>–<td>–</tbody></table>"}
],
"methods": {"alone+config":[0,1],"contcoop":[0,1],"contcoop+cross":[2,1],"contcoop+no-kd":[0,3]},
"gaps": [],
"command": "compatbench run --suite tiny --methods METHOD"
};
