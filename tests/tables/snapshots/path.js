"use strict";
compatbench.suite = {
"title": "Tiny suite",
"notes": ["Invented figures."],
"tasks": ["Cats","Dogs"],
"boards": [
{"upgrade":["old","middle"],"title":"Old model → middle","shots":"4","rows":[["coop","shallow","",[["–",1],"CoOp","shallow",["66.0 ± 1.4",66.0],["63.0 ± 1.4",63.0],["64.5 ± 1.4",64.463],["7.5 to 100.0",7.547],["+13.0",13.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[60.0,68.9],[61.0,71.0],[59.0,67.0],[9.0,17.0],[null,null]]],["linear_probe","deep","",[["–",2],"Linear probe","deep",["66.0 ± 1.4",66.0],["–",null],["incomplete",null],["–",null],["–",null],["–",null],["8,192",8192],["0.4 s",0.4]],[[60.0,null],[61.0,71.0],[59.0,null],[9.0,null],[null,null]]]],"figures":[{"kind":"scatter","heading":". No H, so no mark: Linear probe.","missing":"","signals":{"x0":65,"x1":67,"y0":62,"y1":64,"step":1,"zero_source":40.0,"zero_target":50.0},"fields":["row","named"],"values":[[0,true]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1]]}]},
{"upgrade":["old","new"],"title":"Old model → New model","shots":"4","rows":[["coop","shallow","",[["–",1],"CoOp","shallow",["66.0 ± 1.4",66.0],["63.0 ± 1.4",63.0],["64.3 ± 1.4",64.33],["40.6 to 88.0",40.624],["+3.0",3.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[62.5,66.2],[61.0,71.0],[64.0,62.0],[4.0,2.0],[null,null]]],["linear_probe","deep","",[["–",2],"Linear probe","deep",["66.0 ± 1.4",66.0],["63.0 ± 1.4",63.0],["64.3 ± 1.4",64.33],["40.6 to 88.0",40.624],["+3.0",3.0],["–",null],["8,192",8192],["0.4 s",0.4]],[[62.5,66.2],[61.0,71.0],[64.0,62.0],[4.0,2.0],[null,null]]]],"figures":[{"kind":"scatter","heading":"","missing":"","signals":{"x0":65,"x1":67,"y0":62,"y1":64,"step":1,"zero_source":40.0,"zero_target":60.0},"fields":["row","named"],"values":[[0,true],[1,true]]},{"kind":"matrix","heading":"","missing":"","signals":{"sets":["Cats","Dogs","Mean"]},"fields":["row"],"values":[[0],[1]]}]}
],
"figures": [],
"parts": [
{"title":"Step by step","html":"<p>One module, 4 shots, is trained on the first model and measured on every later one; in parentheses the change of each step, in points. <em>Per step</em> is the mean change of a step; gain is over the zero-shot accuracy of each step's model. Methods are in the order of H on the last model.</p><p>Old model → middle → New model: gain over each model's own zero-shot.</p><table><thead><tr><th class=text>Method<th>Old model<th>middle<th>New model<th>Per step</thead><tbody><tr><td class=text>CoOp<td>+26.0<td>+13.0 (-13.0)<td>+3.0 (-10.0)<td>-11.5<tr><td class=text>Linear probe<td>+26.0<td>–<td>+3.0<td>–</tbody></table><h4>Accuracy: Old model → middle → New model</h4><table><thead><tr><th class=text>Method<th>Old model<th>middle<th>New model<th>Per step</thead><tbody><tr><td class=text>CoOp<td>66.0<td>63.0 (-3.0)<td>63.0 (0.0)<td>-1.5<tr><td class=text>Linear probe<td>66.0<td>–<td>63.0<td>–</tbody></table>"},
{"title":"By kind of upgrade","html":"<p>Means over the upgrades of one kind and their datasets; never across kinds.</p><h4>Kin, 4 shots</h4><p>Old model → New model; Old model → middle.</p><table><thead><tr><th>Rank<th class=text>Method<th class=text>Depth<th>Source<th>Target<th>H<th>Gain</thead><tbody><tr><td>–<td class=text>CoOp<td class=text>shallow<td>66.0 ± 1.4<td>63.0 ± 1.4<td>64.4 ± 1.4<td>+8.0<tr><td>–<td class=text>Linear probe<td class=text>deep<td>66.0 ± 1.4<td>–<td>incomplete<td>–</tbody></table>"}
],
"methods": {"coop":[0],"linear_probe":[0]},
"gaps": [["Linear probe","missing","1","–"]],
"command": "compatbench run --suite tiny --methods METHOD"
};
