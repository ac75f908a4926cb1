// Signs of an expert: the last two rounds of `lowbias32`, ten cycles later, one a cycle.
module unit_hash (
  input  logic        clk,
  input  logic [31:0] in,
  output logic [31:0] out
);
  logic [63:0] first, second;
  logic [31:0] entering, middle;
  unit_multiply #(.A(32), .B(32)) by_first (.clk, .a(entering), .b(32'h7feb_352d), .product(first));
  unit_multiply #(.A(32), .B(32)) by_second (.clk, .a(middle), .b(32'h846c_a68b), .product(second));
  always_ff @(posedge clk) {entering, middle} <= {in, first[31:0] ^ (first[31:0] >> 15)};
  assign out = second[31:0] ^ (second[31:0] >> 16);
endmodule
