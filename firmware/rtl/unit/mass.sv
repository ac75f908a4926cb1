// Routing masses, bit for bit as `cptr_core::Router::mass`: of a softmax exp(value - largest), 21 cycles later, one a
// cycle; of a sigmoid router the sigmoid of the value, over exp(largest) where that is below 0, 78 cycles later, one in
// two cycles: asked for while `ready` is high. Values have their sign turned over, so that a greater word is a greater
// value; the result is `U1F31`.
//
// A sigmoid takes two exponentials and no division: with e = exp(-|z|), 1 / (1 + e) comes of three steps of Newton's
// iteration, y (2 - x y) with x = (1 + e) / 2. Of its eight products each of four multipliers makes two, a product
// every seven cycles: one in an even cycle, one in an odd.
module unit_mass #(
  parameter int unsigned TAG = 1,
  parameter int unsigned SIGMOID = 1
) (
  input  logic           clk,
  input  logic           rst_n,
  input  logic           clear,
  input  logic           sigmoid,
  output logic           ready,
  input  logic           in_valid,
  input  logic [TAG-1:0] in_tag,
  input  logic [31:0]    largest,
  input  logic [31:0]    value,
  output logic           out_valid,
  output logic [TAG-1:0] out_tag,
  output logic [31:0]    mass
);
  localparam logic [31:0] ZERO = 32'h8000_0000;

  if (SIGMOID != 0) begin : both
    // The two exponentials of a sigmoid, one after the other: of its distance from 0, and below 0 of its distance from
    // what it is relative to; else of nothing, which is one.
    logic even, asked, second;
    logic [31:0] from_zero, to_zero, from_anchor, to_anchor;
    logic [TAG-1:0] tag;
    wire negative = ~value[31];
    assign ready = even;
    always_ff @(posedge clk or negedge rst_n) begin
      if (!rst_n) {even, asked, second} <= '0;
      else if (clear) {even, asked, second} <= {~even, 2'b00};
      else {even, asked, second} <= {~even, in_valid & sigmoid, asked};
    end
    always_ff @(posedge clk) begin
      if (in_valid) begin
        from_zero <= negative ? ZERO : value;
        to_zero <= negative ? value : ZERO;
        from_anchor <= !negative ? value : largest[31] ? ZERO : largest;
        to_anchor <= value;
        tag <= in_tag;
      end
    end
    // One register cannot drive what all of these choose between; it holds still.
    logic by_sigmoid;
    always_ff @(posedge clk) by_sigmoid <= sigmoid;
    logic exp_valid, exp_second;
    logic [TAG-1:0] exp_tag;
    logic [31:0] exp;
    unit_exponential #(.TAG(TAG + 1)) exponential (
      .clk, .rst_n, .clear, .in_valid(by_sigmoid ? asked | second : in_valid),
      .in_tag(by_sigmoid ? {second, tag} : {1'b0, in_tag}),
      .largest(by_sigmoid ? (second ? from_anchor : from_zero) : largest),
      .value(by_sigmoid ? (second ? to_anchor : to_zero) : value),
      .out_valid(exp_valid), .out_tag({exp_second, exp_tag}), .mass(exp)
    );

    // One and the exponential, halved, U0F32; where that is a half or 1, which the formats cannot hold or invert, what
    // is left is the factor, halved or not.
    logic [31:0] x, factor;
    logic plain, halved;
    always_ff @(posedge clk) begin
      if (exp_valid && !exp_second) begin
        x <= {~exp[31], exp[30:0]};
        plain <= exp == '0 | exp[31];
        halved <= exp[31];
      end
      factor <= exp;
    end

    // Operands of every product, seven cycles apart; the first ones are there 23 cycles after a sigmoid was asked for,
    // in an odd cycle. Whose turn it is, is looked at before a register: nothing but the multiplier is behind that.
    wire odd = ~even;
    logic [31:0] x_7, x_21, x_35, factor_49, y_7, y_14, y_21, y_28, y_35, y_42, y_49, t_14, t_28, t_42;
    unit_delay #(.WIDTH(32), .CYCLES(7)) x_line_7 (.clk, .in(x), .out(x_7));
    unit_delay #(.WIDTH(32), .CYCLES(14)) x_line_21 (.clk, .in(x_7), .out(x_21));
    unit_delay #(.WIDTH(32), .CYCLES(14)) x_line_35 (.clk, .in(x_21), .out(x_35));
    unit_delay #(.WIDTH(32), .CYCLES(7)) y_line_14 (.clk, .in(y_7), .out(y_14));
    unit_delay #(.WIDTH(32), .CYCLES(7)) y_line_28 (.clk, .in(y_21), .out(y_28));
    unit_delay #(.WIDTH(32), .CYCLES(7)) y_line_42 (.clk, .in(y_35), .out(y_42));
    unit_delay #(.WIDTH(32), .CYCLES(49)) factor_line (.clk, .in(factor), .out(factor_49));
    logic [31:0] a_1, a_2, a_3, a_4, b_1, b_2, b_3, b_4;
    logic [63:0] product_1, product_2, product_3, product_4;
    unit_multiply #(.A(32), .B(32)) multiplier_1 (.clk, .a(a_1), .b(b_1), .product(product_1));
    unit_multiply #(.A(32), .B(32)) multiplier_2 (.clk, .a(a_2), .b(b_2), .product(product_2));
    unit_multiply #(.A(32), .B(32)) multiplier_3 (.clk, .a(a_3), .b(b_3), .product(product_3));
    unit_multiply #(.A(32), .B(32)) multiplier_4 (.clk, .a(a_4), .b(b_4), .product(product_4));
    // What becomes of a product, a cycle after it, and a cycle more.
    logic [31:0] y_0, y_1, y_2, y_3, t_1, t_2, t_3;
    always_ff @(posedge clk) begin
      {a_1, b_1} <= odd ? {x, 32'hf0f0_f0f0} : {x_7, y_7};
      {a_2, b_2} <= odd ? {y_14, t_14} : {x_21, y_21};
      {a_3, b_3} <= odd ? {y_28, t_28} : {x_35, y_35};
      {a_4, b_4} <= odd ? {y_42, t_42} : {factor_49, y_49};
      // Of 48/17 - 32/17 x.
      y_0 <= 32'h6969_6969 - product_1[63:32];
      t_1 <= -product_1[63:32];
      y_1 <= {product_2[62:32], 1'b0};
      t_2 <= -product_2[63:32];
      y_2 <= {product_3[62:32], 1'b0};
      t_3 <= -product_3[63:32];
      y_3 <= {product_4[62:32], 1'b0};
      {y_7, t_14, y_21, t_28, y_35, t_42, y_49} <= {y_0, t_1, y_1, t_2, y_2, t_3, y_3};
    end

    // What comes out, and who asked.
    logic plain_54, halved_54;
    logic [31:0] factor_54;
    logic [54:0] valid;
    logic [TAG-1:0] tag_54, begin_tag;
    always_ff @(posedge clk) begin
      begin_tag <= exp_tag;
      out_tag <= sigmoid ? tag_54 : exp_tag;
      mass <= !sigmoid ? exp : plain_54 ? factor_54 >> halved_54 : product_4[63:32];
    end
    unit_delay #(.WIDTH(2), .CYCLES(54)) plain_line (.clk, .in({plain, halved}), .out({plain_54, halved_54}));
    unit_delay #(.WIDTH(32), .CYCLES(5)) factor_line_54 (.clk, .in(factor_49), .out(factor_54));
    unit_delay #(.WIDTH(TAG), .CYCLES(54)) tag_line (.clk, .in(begin_tag), .out(tag_54));
    always_ff @(posedge clk or negedge rst_n) begin
      if (!rst_n) {out_valid, valid} <= '0;
      else if (clear) {out_valid, valid} <= '0;
      else begin
        valid <= {valid[53:0], exp_valid & exp_second & sigmoid};
        out_valid <= sigmoid ? valid[54] : exp_valid;
      end
    end
  end else begin : softmax
    assign ready = 1'b1;
    logic exp_valid;
    logic [TAG-1:0] exp_tag;
    logic [31:0] exp;
    unit_exponential #(.TAG(TAG)) exponential (
      .clk, .rst_n, .clear, .in_valid, .in_tag, .largest, .value, .out_valid(exp_valid), .out_tag(exp_tag), .mass(exp)
    );
    always_ff @(posedge clk) {out_tag, mass} <= {exp_tag, exp};
    always_ff @(posedge clk or negedge rst_n) begin
      if (!rst_n) out_valid <= 1'b0;
      else out_valid <= exp_valid & ~clear;
    end
  end
endmodule
